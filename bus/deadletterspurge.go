package bus

import "context"

// Purge deletes the dead letters that match f and were there when it began, the
// oldest first, and returns how many; the zero filter deletes all of them. When it
// returns an error those deleted so far are gone, and calling it again deletes the
// rest.
func (d *DeadLetters) Purge(ctx context.Context, f DeadLetterFilter) (int, error) {
	const op = "purge dead letters"
	n := 0
	var failed error
	err := d.scan(ctx, op, f, false, func(l DeadLetter) bool {
		if failed = d.remove(ctx, op, l.ID); failed == nil {
			n++
		}
		return failed == nil
	})
	if failed != nil {
		err = failed
	}
	if n > 0 {
		d.b.log.Info("dead letters purged", "count", n, "err", err)
	}
	return n, err
}
