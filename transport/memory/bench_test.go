package memory_test

import (
	"context"
	"runtime"
	"strconv"
	"testing"

	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// The benchmarks publish one event to one group that reads and acks it. Beside
// them is the least that could do: a buffered Go channel.

func BenchmarkChannel(b *testing.B) {
	b.Run("same goroutine", func(b *testing.B) {
		c := make(chan *transport.Message, 1024)
		b.ReportAllocs()
		for b.Loop() {
			c <- &transport.Message{To: transport.Address{Name: "a.done"}, ID: "x", Value: 1}
			<-c
		}
	})
	b.Run("two goroutines", func(b *testing.B) {
		c := make(chan *transport.Message, 1024)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range c {
			}
		}()
		b.ReportAllocs()
		for b.Loop() {
			c <- &transport.Message{To: transport.Address{Name: "a.done"}, ID: "x", Value: 1}
		}
		close(c)
		<-done
	})
}

type bench struct {
	tr  *memory.Transport
	ids []string
	i   int
}

func newBench(b *testing.B, c memory.Config) *bench {
	x := &bench{tr: memory.New(c)}
	b.Cleanup(func() { _ = x.tr.Close(context.Background()) })
	for i := range 1 << 18 { // so many that none is a duplicate within MaxDedup
		x.ids = append(x.ids, "id-"+strconv.Itoa(i))
	}
	return x
}

func (x *bench) subscribe(b *testing.B, group string) transport.Source[transport.Delivery] {
	src, err := x.tr.Subscribe(context.Background(), transport.Subscription{Name: "a.done", Group: group})
	if err != nil {
		b.Fatal(err)
	}
	return src
}

func (x *bench) publish(b *testing.B) {
	x.i++
	m := &transport.Message{To: transport.Address{Name: "a.done"}, ID: x.ids[x.i&(len(x.ids)-1)], Value: 1}
	if err := x.tr.Publish(context.Background(), m); err != nil {
		b.Fatal(err)
	}
}

func settleNext(src transport.Source[transport.Delivery]) error {
	d, err := src.Next(context.Background())
	if err != nil {
		return err
	}
	return d.Ack(context.Background())
}

func BenchmarkEvent(b *testing.B) {
	b.Run("same goroutine", func(b *testing.B) {
		x := newBench(b, memory.Config{})
		src := x.subscribe(b, "g")
		b.ReportAllocs()
		for b.Loop() {
			x.publish(b)
			if err := settleNext(src); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("same goroutine, no dedup", func(b *testing.B) {
		x := newBench(b, memory.Config{DedupWindow: -1})
		src := x.subscribe(b, "g")
		b.ReportAllocs()
		for b.Loop() {
			x.publish(b)
			if err := settleNext(src); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("private", func(b *testing.B) {
		x := newBench(b, memory.Config{})
		src := x.subscribe(b, "")
		b.ReportAllocs()
		for b.Loop() {
			x.publish(b)
			if err := settleNext(src); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, groups := range []int{4, 16} {
		b.Run(strconv.Itoa(groups)+" groups", func(b *testing.B) {
			x := newBench(b, memory.Config{})
			var srcs []transport.Source[transport.Delivery]
			for g := range groups {
				srcs = append(srcs, x.subscribe(b, "g"+strconv.Itoa(g)))
			}
			b.ReportAllocs()
			for b.Loop() {
				x.publish(b)
				for _, src := range srcs {
					if err := settleNext(src); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
	b.Run("publish only", func(b *testing.B) {
		x := newBench(b, memory.Config{})
		b.ReportAllocs()
		for b.Loop() {
			x.publish(b)
		}
	})
	for _, readers := range []int{1, 4, 16} {
		b.Run(strconv.Itoa(readers)+" readers", func(b *testing.B) {
			x := newBench(b, memory.Config{})
			src := x.subscribe(b, "g")
			done := make(chan struct{})
			for range readers {
				go func() {
					for settleNext(src) == nil {
					}
					done <- struct{}{}
				}()
			}
			b.ReportAllocs()
			for b.Loop() {
				x.publish(b)
			}
			for x.tr.Stats().Events > 0 {
				runtime.Gosched()
			}
			b.StopTimer()
			_ = src.Close(context.Background())
			for range readers {
				<-done
			}
		})
	}
}

func BenchmarkRequest(b *testing.B) {
	x := newBench(b, memory.Config{})
	ctx := context.Background()
	src, err := x.tr.Serve(ctx, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			r, err := src.Next(ctx)
			if err != nil {
				return
			}
			_ = r.Reply(ctx, &transport.Message{Value: 2})
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := x.tr.Request(ctx, &transport.Message{To: transport.Address{Name: "a.do"}, Value: 1}); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	_ = src.Close(ctx)
	<-done
}
