package keeper

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/env"
)

// with is a keeper whose broker is at the other end of a link.
func with(t *testing.T) (*keeper, *env.Link) {
	t.Helper()
	ours, theirs, err := env.NewLink()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	fd, err := unix.Dup(int(theirs.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	broker, err := env.OpenLink(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ours.Close()
		broker.Close()
	})
	k := &keeper{log: slog.New(slog.DiscardHandler), listener: -1, held: map[string]held{}}
	k.broker = child{link: ours, messages: make(chan env.Message, 1)}
	return k, broker
}

func descriptor(t *testing.T) int {
	t.Helper()
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestListener: it goes to the broker, or, where that died meanwhile, is kept
// for the next; a second one, or none, is nothing to init's word.
func TestListener(t *testing.T) {
	k, broker := with(t)
	k.inflight = descriptor(t)
	if err := k.initSays(env.Message{Letter: env.InitListener}); err != nil || k.listener >= 0 {
		t.Errorf("no listener: %d, %v", k.listener, err)
	}
	if err := k.initSays(env.Message{Letter: env.InitListener, FDs: []int{descriptor(t)}}); err != nil || k.listener < 0 {
		t.Fatalf("the listener: %d, %v", k.listener, err)
	}
	m, err := broker.Receive()
	if err != nil || m.Letter != env.BrokerListener || len(m.FDs) != 2 {
		t.Errorf("the broker got %+v, %v", m, err)
	}
	m.Discard()
	first := k.listener
	if err := k.initSays(env.Message{Letter: env.InitListener, FDs: []int{descriptor(t)}}); err != nil || k.listener != first {
		t.Errorf("a second listener: %d, %v", k.listener, err)
	}

	k, broker = with(t)
	k.inflight = descriptor(t)
	broker.Close()
	if err := k.initSays(env.Message{Letter: env.InitListener, FDs: []int{descriptor(t)}}); err != nil || k.listener < 0 {
		t.Errorf("with a dead broker: %d, %v", k.listener, err)
	}
}

// TestOver: an environment ends when nothing is left, and not before the
// broker has told all that it knew at the last session's end.
func TestOver(t *testing.T) {
	k, broker := with(t)
	k.forwarded = 2
	for _, idle := range []string{"", "x", "1", "-1", "3", "99999999999999999999"} {
		if err := k.initSays(env.Message{Letter: env.InitIdle, Text: idle}); err != nil || k.idle {
			t.Errorf("idle after %q of 2 sessions, %v", idle, err)
		}
	}
	if err := k.initSays(env.Message{Letter: env.InitIdle, Text: "2"}); err != nil || !k.idle {
		t.Fatalf("not idle, %v", err)
	}
	for range 2 { // the second time the broker has been asked already
		if k.over() {
			t.Error("over without the broker's word")
		}
	}
	m, err := broker.Receive()
	if err != nil || m.Letter != env.LinkEcho || m.Text != "2" {
		t.Fatalf("the broker was asked %+v, %v", m, err)
	}
	k.brokerSays(env.Message{Letter: env.BrokerHold, Text: "key\x00blob", FDs: []int{descriptor(t)}})
	k.brokerSays(env.Message{Letter: env.LinkEcho, Text: "2"})
	if k.over() {
		t.Error("over with a mount")
	}
	k.brokerSays(env.Message{Letter: env.BrokerDrop, Text: "none"})
	k.brokerSays(env.Message{Letter: env.BrokerDrop, Text: "key"})
	if !k.over() {
		t.Error("not over")
	}
	k.wanted = true
	if k.over() {
		t.Error("over with a service")
	}
	k.wanted, k.heard, k.broker.messages = false, 0, nil
	if !k.over() {
		t.Error("not over with a dead broker")
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	var got []time.Duration
	for range 9 {
		got = append(got, b.next().Round(time.Millisecond))
	}
	want := "[0s 50ms 100ms 200ms 400ms 800ms 1.6s 3.2s 5s]"
	if fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	b.last = time.Now().Add(-time.Minute)
	if d := b.next(); d != 0 {
		t.Errorf("%v for a broker that had lived", d)
	}
}
