package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

// failed returns a bus whose group "mailer" could not handle the events of these
// users, and has closed the listener since.
func failed(ctx context.Context, ids ...UserID) *bus.Bus {
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "mailer"})
	must(err)
	sub, err := bus.Subscribe(ctx, b, func(_ context.Context, e UserCreated) error {
		return bus.Permanent(errors.New("no such address: " + string(e.ID)))
	}, bus.WithName("welcome"), bus.WithConcurrency(1))
	must(err)
	for _, id := range ids {
		must(bus.Publish(ctx, b, UserCreated{ID: id}, bus.WithID("evt-"+string(id))))
	}
	for n := 0; n < len(ids); time.Sleep(time.Millisecond) {
		n, err = b.DeadLetters().Count(ctx, bus.DeadLetterFilter{})
		must(err)
	}
	must(sub.Close(ctx))
	return b
}

// An alarm is a listener like any other.
func ExampleDeadLettered() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "mailer"})
	must(err)
	defer b.Close(ctx)
	alarms := make(chan bus.DeadLettered, 1)
	_, err = bus.Subscribe(ctx, b, func(_ context.Context, e bus.DeadLettered) error {
		alarms <- e
		return nil
	}, bus.WithGroup("alarms"))
	must(err)
	_, err = bus.Subscribe(ctx, b, func(context.Context, UserCreated) error {
		return bus.Permanent(errors.New("no such address"))
	}, bus.WithName("welcome"))
	must(err)

	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	e := <-alarms
	fmt.Println(e.Name, "failed at", e.Group+"/"+e.Handler+":", e.Err)
	d, err := b.DeadLetters().Get(ctx, e.ID) // the whole of it
	must(err)
	body, err := d.Body()
	fmt.Println(string(body), err)
	// Output:
	// user.created failed at mailer/welcome: no such address
	// {"ID":"ada"} <nil>
}

func ExampleBus_DeadLetters() {
	ctx := context.Background()
	b := failed(ctx, "ada")
	defer b.Close(ctx)

	page, err := b.DeadLetters().List(ctx, bus.DeadLetterQuery{})
	must(err)
	for _, d := range page.Letters {
		fmt.Println(d.Kind, d.Name, "at", d.Group+"/"+d.Handler, "after", d.Attempts, "attempt:", d.Err)
	}
	// Output: event user.created at mailer/welcome after 1 attempt: no such address: ada
}

// A page's Next is the Cursor of the next one.
func ExampleDeadLetters_List() {
	ctx := context.Background()
	b := failed(ctx, "ada", "bob", "cleo")
	defer b.Close(ctx)

	q := bus.DeadLetterQuery{
		DeadLetterFilter: bus.DeadLetterFilter{Group: "mailer", Text: "no such address"},
		Newest:           true,
		Limit:            2,
	}
	for first := true; first || q.Cursor != ""; first = false {
		page, err := b.DeadLetters().List(ctx, q)
		must(err)
		fmt.Println("page of", len(page.Letters))
		for _, d := range page.Letters {
			fmt.Println(d.Err)
		}
		q.Cursor = page.Next
	}
	// Output:
	// page of 2
	// no such address: cleo
	// no such address: bob
	// page of 1
	// no such address: ada
}

func ExampleDeadLetters_All() {
	ctx := context.Background()
	b := failed(ctx, "ada", "bob")
	defer b.Close(ctx)

	for d, err := range b.DeadLetters().All(ctx, bus.DeadLetterQuery{}) {
		must(err)
		fmt.Println(d.MessageID)
	}
	// Output:
	// evt-ada
	// evt-bob
}

func ExampleDeadLetters_Get() {
	ctx := context.Background()
	b := failed(ctx, "ada")
	defer b.Close(ctx)

	_, err := b.DeadLetters().Get(ctx, "some-id")
	fmt.Println(errors.Is(err, bus.ErrNoDeadLetter), bus.CodeOf(err))
	// Output: true not_found
}

func ExampleDeadLetterValue() {
	ctx := context.Background()
	b := failed(ctx, "ada")
	defer b.Close(ctx)

	page, err := b.DeadLetters().List(ctx, bus.DeadLetterQuery{})
	must(err)
	d := page.Letters[0]
	e, err := bus.DeadLetterValue[UserCreated](d)
	must(err)
	fmt.Println(e.ID)
	// Output: ada
}

// What the message looks like on the wire, also where it never was there.
func ExampleDeadLetter_Body() {
	ctx := context.Background()
	b := failed(ctx, "ada")
	defer b.Close(ctx)

	page, err := b.DeadLetters().List(ctx, bus.DeadLetterQuery{})
	must(err)
	body, err := page.Letters[0].Body()
	must(err)
	fmt.Println(page.Letters[0].ContentType, string(body))
	// Output: application/json {"ID":"ada"}
}

func ExampleDeadLetter_Header() {
	ctx := context.Background()
	b := failed(ctx, "ada")
	defer b.Close(ctx)

	page, err := b.DeadLetters().List(ctx, bus.DeadLetterQuery{})
	must(err)
	fmt.Println(len(page.Letters[0].Header()))
	// Output: 0
}

func ExampleDeadLetter_String() {
	d := bus.DeadLetter{
		ID: "4hTzvBdFmWwDJsTCG5Gr9g", Kind: bus.KindEvent, Name: "user.created", MessageID: "evt-ada",
		Group: "mailer", Handler: "welcome", Code: bus.CodeFailed, Err: "no such address", Attempts: 4,
		Last: time.Date(2026, 11, 23, 19, 12, 33, 0, time.UTC),
	}
	fmt.Println(d)
	// Output: 2026-11-23T19:12:33.000Z 4hTzvBdFmWwDJsTCG5Gr9g event user.created mailer/welcome attempts=4 id=evt-ada code=failed err="no such address"
}

func ExampleDeadLetters_Count() {
	ctx := context.Background()
	b := failed(ctx, "ada", "bob")
	defer b.Close(ctx)

	all, err := b.DeadLetters().Count(ctx, bus.DeadLetterFilter{})
	must(err)
	bobs, err := b.DeadLetters().Count(ctx, bus.DeadLetterFilter{MessageID: "evt-bob"})
	must(err)
	fmt.Println(all, bobs)
	// Output: 2 1
}

func ExampleDeadLetters_Stats() {
	ctx := context.Background()
	b := failed(ctx, "ada")
	defer b.Close(ctx)

	st, err := b.DeadLetters().Stats(ctx)
	must(err)
	fmt.Println(st.Count, "of", st.Max, "dropped", st.Dropped, "oldest", time.Since(st.Oldest) < time.Minute)
	// Output: 1 of 1000 dropped 0 oldest true
}

func ExampleDeadLetters_Discard() {
	ctx := context.Background()
	b := failed(ctx, "ada")
	defer b.Close(ctx)

	page, err := b.DeadLetters().List(ctx, bus.DeadLetterQuery{})
	must(err)
	fmt.Println(b.DeadLetters().Discard(ctx, page.Letters[0].ID))
	// Output: <nil>
}

func ExampleDeadLetters_Purge() {
	ctx := context.Background()
	b := failed(ctx, "ada", "bob")
	defer b.Close(ctx)

	// What is older than a week, or is Bob's.
	old, err := b.DeadLetters().Purge(ctx, bus.DeadLetterFilter{Until: time.Now().AddDate(0, 0, -7)})
	must(err)
	bobs, err := b.DeadLetters().Purge(ctx, bus.DeadLetterFilter{Where: func(d bus.DeadLetter) bool {
		e, err := bus.DeadLetterValue[UserCreated](d)
		return err == nil && e.ID == "bob"
	}})
	must(err)
	fmt.Println(old, bobs)
	// Output: 0 1
}

// mended returns failed's bus with a listener that works, which prints.
func mended(ctx context.Context, done *sync.WaitGroup, ids ...UserID) *bus.Bus {
	b := failed(ctx, ids...)
	done.Add(len(ids))
	_, err := bus.Subscribe(ctx, b, func(ctx context.Context, e UserCreated) error {
		m, _ := bus.MetaFrom(ctx)
		fmt.Println("welcome,", e.ID, "- attempt", m.Attempt, "of generation", m.Generation)
		done.Done()
		return nil
	}, bus.WithName("welcome"), bus.WithConcurrency(1))
	must(err)
	return b
}

func ExampleDeadLetters_Redrive() {
	ctx := context.Background()
	var done sync.WaitGroup
	b := mended(ctx, &done, "ada")
	defer b.Close(ctx)

	page, err := b.DeadLetters().List(ctx, bus.DeadLetterQuery{})
	must(err)
	_, err = b.DeadLetters().Redrive(ctx, page.Letters[0].ID)
	must(err)
	done.Wait()
	// Output: welcome, ada - attempt 1 of generation 1
}

func ExampleDeadLetters_RedriveAll() {
	ctx := context.Background()
	var done sync.WaitGroup
	b := mended(ctx, &done, "ada", "bob")
	defer b.Close(ctx)

	report, err := b.DeadLetters().RedriveAll(ctx, bus.DeadLetterFilter{Group: "mailer", Handler: "welcome"},
		bus.WithRedriveRate(1000))
	must(err)
	done.Wait()
	fmt.Println(report.Redriven, "redriven,", report.Refused, "refused,", report.Failed, "failed")
	// Output:
	// welcome, ada - attempt 1 of generation 1
	// welcome, bob - attempt 1 of generation 1
	// 2 redriven, 0 refused, 0 failed
}

// A command goes to its handler once more. Its idempotency key sees to it that it
// succeeds once, and its caller may ask for the result under it.
func ExampleDeadLetters_Redrive_command() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts", Capture: bus.CaptureFailures})
	must(err)
	defer b.Close(ctx)
	full := true
	must(bus.Handle(ctx, b, func(_ context.Context, c CreateUser) (UserID, error) {
		if full {
			return "", errors.New("disk is full")
		}
		return UserID("user-" + c.Name), nil
	}))

	key := bus.WithIdempotencyKey("signup-17")
	_, err = bus.Execute(ctx, b, CreateUser{Name: "ada"}, key)
	var e *bus.Error
	errors.As(err, &e)
	fmt.Println(err)

	full = false
	_, err = b.DeadLetters().Redrive(ctx, e.DeadLetter)
	must(err)
	id, err := bus.Execute(ctx, b, CreateUser{Name: "ada"}, key) // does not run again
	fmt.Println(id, err)
	// Output:
	// execute user.create: disk is full
	// user-ada <nil>
}

// The ids were wrong, in all of them alike.
func ExampleWithEdit() {
	ctx := context.Background()
	var done sync.WaitGroup
	b := mended(ctx, &done, "ADA", "BOB")
	defer b.Close(ctx)

	report, err := b.DeadLetters().RedriveAll(ctx, bus.DeadLetterFilter{Name: "user.created"},
		bus.WithEdit(func(e UserCreated) (UserCreated, error) {
			e.ID = UserID(strings.ToLower(string(e.ID)))
			return e, nil
		}))
	must(err)
	done.Wait()
	fmt.Println(report.Redriven, report.Results[0].Edited)
	// Output:
	// welcome, ada - attempt 1 of generation 1
	// welcome, bob - attempt 1 of generation 1
	// 2 true
}

// A body that cannot be decoded is mended as it is.
func ExampleWithBodyEdit() {
	ctx := context.Background()
	var done sync.WaitGroup
	b := mended(ctx, &done, "ada")
	defer b.Close(ctx)

	page, err := b.DeadLetters().List(ctx, bus.DeadLetterQuery{})
	must(err)
	_, err = b.DeadLetters().Redrive(ctx, page.Letters[0].ID,
		bus.WithBodyEdit(func(contentType string, body []byte) (string, []byte, error) {
			fmt.Println(contentType, string(body))
			return contentType, bytes.Replace(body, []byte("ada"), []byte("ada.lovelace"), 1), nil
		}))
	must(err)
	done.Wait()
	// Output:
	// application/json {"ID":"ada"}
	// welcome, ada.lovelace - attempt 1 of generation 1
}

// A dry run tells what would be done, to whom.
func ExampleWithDryRun() {
	ctx := context.Background()
	b := failed(ctx, "ada", "bob")
	defer b.Close(ctx)

	report, err := b.DeadLetters().RedriveAll(ctx, bus.DeadLetterFilter{}, bus.WithDryRun())
	must(err)
	for _, r := range report.Results {
		fmt.Println(r.MessageID, "would go to", r.Group+"/"+r.Handler)
	}
	// Output:
	// evt-ada would go to mailer/welcome
	// evt-bob would go to mailer/welcome
}

// First one, to see how it fares.
func ExampleWithRedriveLimit() {
	ctx := context.Background()
	b := failed(ctx, "ada", "bob", "cleo")
	defer b.Close(ctx)

	report, err := b.DeadLetters().RedriveAll(ctx, bus.DeadLetterFilter{}, bus.WithRedriveLimit(1))
	must(err)
	fmt.Println(report.Redriven)
	// Output: 1
}

func ExampleWithRedriveRate() {
	ctx := context.Background()
	b := failed(ctx, "ada", "bob", "cleo")
	defer b.Close(ctx)

	began := time.Now()
	_, err := b.DeadLetters().RedriveAll(ctx, bus.DeadLetterFilter{}, bus.WithRedriveRate(100)) // one every 10 ms
	must(err)
	fmt.Println(time.Since(began) >= 20*time.Millisecond)
	// Output: true
}

func ExampleWithEach() {
	ctx := context.Background()
	b := failed(ctx, "ada", "bob")
	defer b.Close(ctx)

	_, err := b.DeadLetters().RedriveAll(ctx, bus.DeadLetterFilter{}, bus.WithEach(func(r bus.RedriveResult) {
		fmt.Println(r.MessageID, r.Err)
	}))
	must(err)
	// Output:
	// evt-ada <nil>
	// evt-bob <nil>
}

// A session's listeners are gone when it has ended, and its group's may not expect
// an event of it any more: that has to be meant.
func ExampleWithForce() {
	ctx := context.Background()
	tr := memory.New(memory.Config{})
	b, err := bus.New(tr, bus.Config{Service: "mailer"})
	must(err)
	defer b.Close(ctx)
	_, err = bus.Subscribe(ctx, b, func(context.Context, UserCreated) error { return bus.Permanent(errors.New("no such address")) })
	must(err)
	must(bus.InSession(ctx, b, "import-42", func(ctx context.Context, s *bus.Session) error {
		return bus.Publish(ctx, s, UserCreated{ID: "ada"})
	}))
	var page bus.DeadLetterPage
	for ; len(page.Letters) == 0; time.Sleep(time.Millisecond) {
		page, err = b.DeadLetters().List(ctx, bus.DeadLetterQuery{})
		must(err)
	}

	_, err = b.DeadLetters().Redrive(ctx, page.Letters[0].ID)
	fmt.Println(errors.Is(err, bus.ErrNotRedrivable), errors.Is(err, bus.ErrSessionClosed))
	_, err = b.DeadLetters().Redrive(ctx, page.Letters[0].ID, bus.WithForce())
	fmt.Println(err)
	// Output:
	// true true
	// <nil>
}

func ExampleDeadLetters_Watch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b := failed(ctx)
	defer b.Close(context.Background())

	_, err := bus.Subscribe(ctx, b, func(context.Context, UserCreated) error {
		return bus.Permanent(errors.New("no such address"))
	})
	must(err)
	go func() {
		for ctx.Err() == nil {
			_ = bus.Publish(ctx, b, UserCreated{ID: "ada"})
			time.Sleep(100 * time.Millisecond)
		}
	}()
	for news, err := range b.DeadLetters().Watch(ctx, bus.DeadLetterFilter{Group: "mailer"}) {
		must(err)
		fmt.Println(news.Err, "- missed:", news.Missed)
		break
	}
	// Output: no such address - missed: 0
}
