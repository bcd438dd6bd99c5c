package env

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
)

// Mount is a FUSE mount that another process than the broker serves.
type Mount struct {
	Subtype string      // as /proc/mounts shows it: fuse.SUBTYPE
	Places  []MountPart // where its parts are seen
}

// MountPart is a directory of a Mount, and where it is put.
type MountPart struct{ Part, Target string }

// served is the client's request.
type served struct {
	Mounts []Mount
	// Resumed says that they are in place already, from a broker that has ended.
	Resumed bool
}

// maxServed bounds a request, in bytes, and how many mounts it has.
const (
	maxServed      = 64 << 10
	maxServedCount = 4
)

// ServeMounts has the environment's broker make mounts that the calling process serves,
// and put them in place, where they stay until the connection that it answers is
// closed. serve takes over the /dev/fuse of each, and must begin to serve it. Where they
// are in place from before (resumed), it is not called.
func ServeMounts(ctx context.Context, d Dirs, name string, mounts []Mount, resumed bool, serve func(mount, fuseFD int)) (net.Conn, error) {
	c, err := Dial(ctx, d, name, ToServed)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	fail := func(err error) (net.Conn, error) {
		c.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("cannot place mounts in environment %s: %w", name, gone(err))
	}
	if err := json.NewEncoder(c).Encode(served{mounts, resumed}); err != nil {
		return fail(err)
	}
	if !resumed {
		b := make([]byte, 1)
		_, fds, err := ReceiveFDs(c, b)
		if err != nil {
			return fail(err)
		}
		if len(fds) != len(mounts) {
			Message{FDs: fds}.Discard()
			return fail(errors.New("its broker made none"))
		}
		for i, fd := range fds {
			serve(i, fd)
		}
	}
	var a exposeAnswer
	if err := json.NewDecoder(io.LimitReader(c, maxServed)).Decode(&a); err != nil {
		return fail(err)
	}
	if a.Error != "" {
		return fail(errors.New(a.Error))
	}
	if !stop() {
		return fail(context.Cause(ctx))
	}
	return c, nil
}

// AnswerServed is the broker's side, until the client closes the connection or ctx ends.
// prepare makes the mounts and answers a /dev/fuse of each, which are closed when
// they are sent; place puts them in place, and remove takes them away: when the client
// has gone, not when ctx has ended.
func AnswerServed(ctx context.Context, c *net.UnixConn, prepare func([]Mount) ([]int, error), place func() error, remove func([]Mount)) error {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	var req served
	if err := json.NewDecoder(io.LimitReader(c, maxServed)).Decode(&req); err != nil {
		return fmt.Errorf("cannot read what to mount: %w", err)
	}
	if len(req.Mounts) == 0 || len(req.Mounts) > maxServedCount {
		return errors.New("cannot serve a client: malformed request")
	}
	var a exposeAnswer
	if !req.Resumed {
		fds, err := prepare(req.Mounts)
		if err == nil {
			err = sendFDs(c, []byte{0}, fds...)
			Message{FDs: fds}.Discard()
		}
		if err == nil {
			err = place()
		}
		if err != nil {
			a.Error = err.Error()
		}
	}
	err := json.NewEncoder(c).Encode(a)
	if err == nil && a.Error == "" {
		_, err = io.Copy(io.Discard, c)
	}
	if ctx.Err() != nil {
		return nil
	}
	remove(req.Mounts)
	return err
}
