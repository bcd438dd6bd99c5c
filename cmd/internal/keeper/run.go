package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/env"
)

// client is a connection and whom it wants.
type client struct {
	conn *net.UnixConn
	to   byte
}

// accept takes connections until the socket is closed.
func (k *keeper) accept(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			k.log.Warn("cannot accept", "err", err)
			time.Sleep(10 * time.Millisecond) // out of descriptors: let some go
			continue
		}
		go func() {
			if err := k.greet(c); err != nil {
				k.log.Warn("client refused", "err", err)
				c.Close()
			}
		}()
	}
}

func (k *keeper) greet(c *net.UnixConn) error {
	if err := k.outsider(c); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	k.clients <- client{c, b[0]}
	return nil
}

// outsider refuses guests: the keeper may look into the namespaces of a process
// just when it lives in the environment.
func (k *keeper) outsider(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, cerr); err != nil {
		return err
	}
	if cred.Uid != k.cfg.Map.Owner {
		return errors.New("not the owner of the environment")
	}
	if k.cfg.Privileged {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/user", cred.Pid), &st); !errors.Is(err, unix.EACCES) {
		return errors.New("a process inside the environment")
	}
	return nil
}

// run is the keeper's life after the start. It owns all state of k.
func (k *keeper) run() int {
	visit := time.After(firstVisit)
	var restart <-chan time.Time
	initGone, brokerGone := k.init.exited, k.broker.exited
	for {
		select {
		case c := <-k.clients:
			k.serve(c)
		case <-k.wake:
			if err := k.listenAgain(); err != nil {
				k.log.Error("unreachable", "err", err)
			}
		case m, ok := <-k.init.messages:
			if !ok {
				k.init.messages = nil
				k.init.kill()
				break
			}
			if err := k.initSays(m); err != nil {
				k.log.Error("init failed", "err", err)
				k.init.kill()
			}
		case m, ok := <-k.broker.messages:
			if !ok {
				k.broker.messages = nil
				k.broker.kill()
				break
			}
			k.brokerSays(m)
		case <-brokerGone:
			brokerGone = nil
			k.finishMessages()
			restart = time.After(k.restarts.next())
		case <-restart:
			restart = nil
			if err := k.startBroker(); err != nil {
				k.log.Error("cannot restart the broker", "err", err)
				k.broker.kill()
			}
			brokerGone = k.broker.exited
		case <-visit:
			k.visited = true
			if k.forwarded == 0 && len(k.held) == 0 && !k.wanted {
				return k.stop(initGone, brokerGone)
			}
		case <-initGone:
			return k.stop(nil, brokerGone)
		}
		if k.stopping || k.over() {
			return k.stop(initGone, brokerGone)
		}
	}
}

// over says that nothing is left: no process, no service and no mount, not even one that
// the broker has told of and nobody has heard of yet.
func (k *keeper) over() bool {
	switch {
	case !k.idle || k.wanted || len(k.held) > 0:
		return false
	case k.broker.messages == nil || k.heard == k.forwarded:
		return true
	case k.asked != k.forwarded && k.broker.link.Send(env.LinkEcho, strconv.Itoa(k.forwarded)) == nil:
		k.asked = k.forwarded
	}
	return false
}

// finishMessages takes what a dead broker had still sent.
func (k *keeper) finishMessages() {
	if k.broker.messages == nil {
		return
	}
	for m := range k.broker.messages {
		k.brokerSays(m)
	}
	k.broker.messages = nil
	k.broker.link.Close()
}

func (k *keeper) serve(c client) {
	switch c.to {
	case env.ToInit, env.ToServices:
		k.forwarded++
		k.idle = false
		k.hand(k.init.link, c)
	case env.ToBroker, env.ToExpose, env.ToPorts, env.ToServed:
		if k.broker.messages == nil {
			k.pending = append(k.pending, c)
			return
		}
		k.hand(k.broker.link, c)
	case env.ToKeeper:
		k.waiters = append(k.waiters, c.conn)
		k.stopping = true
	default:
		c.conn.Close()
	}
}

// stop ends the environment: no new clients, then its processes, then its
// mounts, whose last data the broker writes out, then the broker.
func (k *keeper) stop(initGone, brokerGone <-chan struct{}) int {
	code := 0
	if err := unix.Unlinkat(int(k.dir.Fd()), k.cfg.Name+".sock", 0); err != nil && !errors.Is(err, unix.ENOENT) {
		k.log.Warn("cannot remove the control socket", "err", err)
	}
	if err := k.cfg.Dirs.Withdraw(k.cfg.Name); err != nil {
		k.log.Warn("stopping", "err", err)
	}
	k.sock.Close()
	if initGone != nil {
		if err := k.init.link.Send(env.LinkStop, ""); err != nil {
			k.init.kill()
		}
		k.await(initGone, killGrace, k.init.kill)
	}
	if brokerGone != nil {
		if err := k.broker.link.Send(env.LinkStop, ""); err != nil {
			k.broker.kill()
		}
		k.await(brokerGone, drainLimit, func() {
			k.lost = append(k.lost, "a mount did not finish writing within "+drainLimit.String())
			k.broker.kill()
		})
		k.finishMessages()
	}
	var answer env.Stopped
	if len(k.lost) > 0 {
		answer.Error = strings.Join(k.lost, "; ")
		k.log.Error("data lost", "what", answer.Error)
		code = 1
	}
	for _, w := range k.waiters {
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			k.log.Warn("cannot tell who waits", "err", err)
		}
		w.Close()
	}
	return code
}

// await serves nobody but those who ask for the end, and the broker's
// messages, until gone is closed; late runs after limit.
func (k *keeper) await(gone <-chan struct{}, limit time.Duration, late func()) {
	timeout := time.After(limit)
	for {
		select {
		case <-gone:
			return
		case c := <-k.clients:
			if c.to == env.ToKeeper {
				k.waiters = append(k.waiters, c.conn)
			} else {
				c.conn.Close()
			}
		case m, ok := <-k.broker.messages:
			if !ok {
				k.broker.messages = nil
				break
			}
			k.brokerSays(m)
		case m, ok := <-k.init.messages:
			if !ok {
				k.init.messages = nil
				break
			}
			m.Discard()
		case <-timeout:
			late()
		}
	}
}

// backoff spaces restarts: at once for a broker that had lived, up to five
// seconds for one that dies again and again.
type backoff struct {
	last  time.Time
	delay time.Duration
}

func (b *backoff) next() time.Duration {
	if time.Since(b.last) > 10*time.Second {
		b.delay = 0
	} else {
		b.delay = min(max(2*b.delay, 50*time.Millisecond), 5*time.Second)
	}
	b.last = time.Now()
	return b.delay
}
