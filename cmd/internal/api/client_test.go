package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"

	"github.com/lxbridge/lx/core/env"
)

// reset is an answer: the connection is closed with the request unread.
const reset = "reset"

// private are directories of the test's user alone.
func private(t *testing.T) env.Dirs {
	t.Helper()
	d := env.Dirs{Runtime: t.TempDir(), State: t.TempDir()}
	if err := os.Chmod(d.Runtime, 0o700); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestConnectCalledOff: who waits for another that starts the daemon can be called off.
func TestConnectCalledOff(t *testing.T) {
	d := private(t)
	unlock, err := env.LockStart(t.Context(), d, env.DaemonName)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := Connect(ctx, d, "1")
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// keeper answers each connection in turn, and is gone before the last answer.
func keeper(t *testing.T, answers ...string) *Client {
	t.Helper()
	d := private(t)
	l, err := net.Listen("unix", d.Socket("e"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		done <- func() error {
			for i, a := range answers {
				c, err := l.Accept()
				if err != nil {
					return err
				}
				if i == len(answers)-1 {
					l.Close() // its name goes with it
				}
				if err := answer(c, a); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return New(d, "e")
}

func answer(c net.Conn, with string) error {
	defer c.Close()
	r := bufio.NewReader(c)
	if to, err := r.ReadByte(); err != nil || to != env.ToBroker {
		return fmt.Errorf("asked for %q, %w", to, err)
	}
	if with == reset {
		return nil
	}
	if _, err := http.ReadRequest(r); err != nil {
		return err
	}
	_, err := io.WriteString(c, with)
	return err
}

func TestMounts(t *testing.T) {
	const good = "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n[{\"source\":\"//a/b\"}]"
	for name, answers := range map[string][]string{
		"at once":             {good},
		"its broker died":     {"", reset, "", good},
		"cut off in its head": {"HTTP/1.1 200", good},
		"cut off in its body": {good[:len(good)-5], good},
	} {
		list, err := keeper(t, answers...).Mounts(t.Context())
		if err != nil || len(list) != 1 || list[0].Source != "//a/b" {
			t.Errorf("%s: %v, %v", name, list, err)
		}
	}
	for name, answers := range map[string][]string{"ended": {""}, "reset": {reset}, "ended after a restart": {reset, ""}} {
		if list, err := keeper(t, answers...).Mounts(t.Context()); !errors.Is(err, env.ErrNotRunning) {
			t.Errorf("%s: %v, %v", name, list, err)
		}
	}
	if _, err := keeper(t, "HTTP/1.1 500 Broken\r\nContent-Length: 3\r\n\r\nbad").Mounts(t.Context()); err == nil || errors.Is(err, env.ErrNotRunning) {
		t.Errorf("a refusal: %v", err)
	}
}
