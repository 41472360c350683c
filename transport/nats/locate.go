package nats

import "github.com/jitney-bus/jitney/transport"

var _ transport.Locator = (*Transport)(nil)

// Locate implements transport.Locator: it returns the subjects on which the
// handlers of a hear their messages, which "nats sub" and the server's monitoring
// show too. A command handler has one; a group has that of the events and that of
// what is sent to the group alone; a private reader has the one on which stored
// events are republished.
func (t *Transport) Locate(kind string, a transport.Address) []string {
	subjects, err := t.names.handled(kind, a)
	if err != nil {
		return nil
	}
	return subjects
}

// handled returns the subjects on which the handlers of a hear their messages.
func (n names) handled(kind string, a transport.Address) ([]string, error) {
	switch {
	case kind == "command" && a.Group == "":
		subject, err := n.command(a)
		return []string{subject}, err
	case kind == "event" && a.Group == "":
		subject, err := n.live(a)
		return []string{subject}, err
	case kind == "event" && a.Session == "":
		retry, err := n.retry(a.Group, a.Name)
		return []string{n.everyScope(a.Name), retry}, err
	}
	return nil, transport.ErrInvalid
}
