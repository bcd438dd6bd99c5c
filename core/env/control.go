package env

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// A client of an environment connects to the keeper's control socket and
// writes one byte, which says whom it wants to speak to. The keeper hands the
// connection over and reads no more of it.
const (
	ToInit     = 'i' // a session: see Spec
	ToServices = 'v' // init too: one supervisor.Request
	ToBroker   = 'b' // HTTP: the broker's API
	ToExpose   = 'e' // serve a mount to the host: see Expose
	ToPorts    = 'r' // a Link that the daemon shares reservations of ports by: see DialLink
	ToServed   = 'd' // place mounts that the client serves: see ServeMounts
	ToKeeper   = 's' // stop the environment; answered by Stopped
	ToNobody   = 'p' // is it there? the keeper hangs up
)

// ErrNotRunning says that no environment of that name runs.
var ErrNotRunning = errors.New("not running")

// Dial connects to the environment's keeper and asks for to. A process that
// lives inside an environment is refused by its keeper.
func Dial(ctx context.Context, d Dirs, name string, to byte) (*net.UnixConn, error) {
	c, err := dialSocket(ctx, d, name)
	switch {
	case errors.Is(err, ErrNotRunning):
		return nil, fmt.Errorf("environment %s: %w", name, ErrNotRunning)
	case err != nil:
		return nil, fmt.Errorf("cannot reach environment %s: %w", name, err)
	}
	if _, err := c.Write([]byte{to}); err != nil {
		c.Close()
		return nil, fmt.Errorf("cannot reach environment %s: %w", name, gone(err))
	}
	return c, nil
}

// Stopped is the keeper's last word to who asked for a stop.
type Stopped struct {
	Error string `json:"error,omitempty"` // what was lost or would not end
}

// Stop ends the environment: its processes get SIGTERM, then SIGKILL, its
// mounts are written out. It returns when all of it is gone.
func Stop(ctx context.Context, d Dirs, name string) error {
	c, err := Dial(ctx, d, name, ToKeeper)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	var s Stopped
	err = json.NewDecoder(c).Decode(&s)
	if errors.Is(err, unix.ECONNRESET) { // it was ending by itself and heard nothing
		return fmt.Errorf("environment %s: %w", name, ErrNotRunning)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("cannot tell how environment %s stopped: %w", name, err)
	}
	if s.Error != "" {
		return fmt.Errorf("environment %s stopped: %s", name, s.Error)
	}
	return nil
}

// exposeAnswer is the broker's reply to an Expose.
type exposeAnswer struct {
	Error string `json:"error,omitempty"`
}

// maxTarget bounds what an Expose names, in bytes.
const maxTarget = 4096

// Expose has the environment's broker serve the mount at target on fuseFD, a
// /dev/fuse descriptor that is mounted on the host already. The descriptor
// stays the caller's to close; the broker ends with it when it is unmounted.
func Expose(ctx context.Context, d Dirs, name, target string, fuseFD int) error {
	c, err := Dial(ctx, d, name, ToExpose)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if len(target) > maxTarget {
		return fmt.Errorf("cannot expose %.40q…: name too long", target)
	}
	if err := sendFDs(c, []byte(target), fuseFD); err != nil {
		return fmt.Errorf("cannot expose %s: %w", target, gone(err))
	}
	var a exposeAnswer
	if err := json.NewDecoder(c).Decode(&a); err != nil {
		return fmt.Errorf("cannot expose %s: %w", target, gone(err))
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return nil
}

// AnswerExpose is the broker's side: serve takes the descriptor over.
func AnswerExpose(c *net.UnixConn, serve func(target string, fuseFD int) error) error {
	defer c.Close()
	b := make([]byte, maxTarget)
	n, fds, err := ReceiveFDs(c, b)
	if err != nil {
		return err
	}
	if len(fds) != 1 {
		Message{FDs: fds}.Discard()
		return errors.New("cannot expose a mount: malformed request")
	}
	var a exposeAnswer
	if err := serve(string(b[:n]), fds[0]); err != nil {
		a.Error = err.Error()
	}
	return json.NewEncoder(c).Encode(a)
}

// DialLink makes a Link with the environment's broker, which AcceptLink opens.
func DialLink(ctx context.Context, d Dirs, name string, to byte) (*Link, error) {
	c, err := Dial(ctx, d, name, to)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	l, theirs, err := NewLink()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if err := sendFDs(c, []byte{to}, int(theirs.Fd())); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot reach environment %s: %w", name, gone(err))
	}
	return l, nil
}

// AcceptLink is the other side; c is closed.
func AcceptLink(c *net.UnixConn) (*Link, error) {
	defer c.Close()
	_, fds, err := ReceiveFDs(c, make([]byte, 1))
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		Message{FDs: fds}.Discard()
		return nil, errors.New("cannot open a link: malformed request")
	}
	return OpenLink(fds[0])
}
