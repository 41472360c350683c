package nats

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// discovery answers the $SRV subjects, by which "nats micro ls" and its kin find
// services. One transport is one instance of a service that has the namespace as
// its name; its endpoints are the commands that it serves.
type discovery struct {
	t       *Transport
	id      string
	started time.Time

	mu  sync.Mutex
	sub *nats.Subscription // nil until the first command is served
}

// serviceVersion is that of what the endpoints have in common: the wire contract.
const serviceVersion = "1.0.0"

func newDiscovery(t *Transport) *discovery {
	d := &discovery{t: t, id: newToken(), started: time.Now().UTC()}
	t.link.onEvent(func(ev linkEvent) {
		if ev == linkNew {
			d.mu.Lock()
			again := d.sub != nil
			d.sub = nil
			d.mu.Unlock()
			if again {
				d.start()
			}
		}
	})
	return d
}

// start begins to answer. That it may be denied is no reason not to serve.
func (d *discovery) start() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sub != nil {
		return
	}
	sub, err := d.t.link.conn().Subscribe(micro.APIPrefix+".>", d.answer)
	if err != nil {
		d.t.log.Warn("cannot be discovered as a service", "err", err)
		return
	}
	d.sub = sub
}

func (d *discovery) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sub != nil && d.sub.IsValid() {
		_ = d.sub.Unsubscribe()
	}
}

// answer takes $SRV.<verb>, $SRV.<verb>.<name> and $SRV.<verb>.<name>.<id>.
func (d *discovery) answer(in *nats.Msg) {
	tokens := strings.Split(in.Subject, ".")
	if in.Reply == "" || !d.t.names.isInbox(in.Reply) || len(tokens) < 2 || len(tokens) > 4 ||
		len(tokens) > 2 && tokens[2] != d.t.names.ns || len(tokens) > 3 && tokens[3] != d.id {
		return
	}
	var a any
	switch tokens[1] {
	case micro.PingVerb.String():
		a = micro.Ping{ServiceIdentity: d.identity(), Type: micro.PingResponseType}
	case micro.InfoVerb.String():
		a = d.info()
	case micro.StatsVerb.String():
		a = d.stats()
	default:
		return
	}
	if b, err := json.Marshal(a); err == nil {
		_ = d.t.link.conn().Publish(in.Reply, b)
	}
}

func (d *discovery) identity() micro.ServiceIdentity {
	return micro.ServiceIdentity{
		Name: d.t.names.ns, ID: d.id, Version: serviceVersion, Metadata: map[string]string{"process": d.t.cfg.Name},
	}
}

func (d *discovery) info() micro.Info {
	i := micro.Info{ServiceIdentity: d.identity(), Type: micro.InfoResponseType, Description: "jitney bus", Endpoints: []micro.EndpointInfo{}}
	for _, s := range d.t.servers() {
		i.Endpoints = append(i.Endpoints, micro.EndpointInfo{Name: endpointName(s.at.Name), Subject: s.subject, QueueGroup: serveQueue})
	}
	return i
}

func (d *discovery) stats() micro.Stats {
	st := micro.Stats{ServiceIdentity: d.identity(), Type: micro.StatsResponseType, Started: d.started, Endpoints: []*micro.EndpointStats{}}
	for _, s := range d.t.servers() {
		st.Endpoints = append(st.Endpoints, &micro.EndpointStats{
			Name: endpointName(s.at.Name), Subject: s.subject, QueueGroup: serveQueue,
			NumRequests: int(s.requests.Load()), NumErrors: int(s.busy.Load()),
		})
	}
	return st
}

// endpointName turns a wire name into one that the services protocol allows.
func endpointName(name string) string { return strings.ReplaceAll(name, ".", "_") }

// servers returns what this transport serves, by subject.
func (t *Transport) servers() []*server {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*server
	for s := range t.sources {
		if s, ok := s.(*server); ok {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *server) int { return cmp.Compare(a.subject, b.subject) })
	return all
}
