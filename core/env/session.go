package env

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// Spec says what a session runs.
type Spec struct {
	// Argv[0] is looked up in PATH of Env. An environment with files of its own
	// runs the user's login shell where Argv is empty.
	Argv []string
	Env  []string
	Dir  string // working directory inside; "/" where it cannot be entered
	// Arg0, if not empty, is what the program sees as its own name ("-bash"
	// for a login shell).
	Arg0  string
	Umask int
	// Terminal says that descriptor 0 is a terminal to control the session with.
	Terminal bool
	// UID and GID are the ids to run as. Other than 0, the session lives in a
	// user namespace of its own where these ids own what root owns outside of it.
	UID, GID uint32
	// User, for an environment with files of its own, is the name or number of
	// whom to run as there; empty: root.
	User string
}

// maxSpec bounds a Spec on the wire: arguments and environment as execve(2)
// takes them by default, in JSON.
const maxSpec = 8 << 20

// event is what init tells the client of a session.
type event struct {
	PID    int    `json:"pid,omitempty"`
	Exited bool   `json:"exited,omitempty"`
	Status int    `json:"status,omitempty"` // as wait4(2) gives it
	Error  string `json:"error,omitempty"`
	Code   int    `json:"code,omitempty"` // exit code that goes with Error
}

// command is what the client tells init.
type command struct {
	Signal syscall.Signal `json:"signal"`
}

// Exit codes of lx itself, as env(1) and chroot(1) have them.
const (
	ExitFailed     = 125
	ExitCannotExec = 126
	ExitNotFound   = 127
)

// ExitError is a session that did not come to be or was not told of: Code is
// what lx exits with.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string { return e.Err.Error() }
func (e *ExitError) Unwrap() error { return e.Err }

// ExitCode is Code, for what reports errors.
func (e *ExitError) ExitCode() int { return e.Code }

func writeSpec(c *net.UnixConn, s Spec, fds [3]int) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("cannot describe the session: %w", err)
	}
	if len(b) > maxSpec {
		return fmt.Errorf("cannot start the session: %w", syscall.E2BIG)
	}
	if err := sendFDs(c, binary.BigEndian.AppendUint32(nil, uint32(len(b))), fds[:]...); err != nil {
		return err
	}
	_, err = c.Write(b)
	return err
}

func readSpec(c *net.UnixConn) (s Spec, files []*os.File, err error) {
	var head [4]byte
	n, fds, err := ReceiveFDs(c, head[:])
	for _, fd := range fds {
		files = append(files, os.NewFile(uintptr(fd), "stdio"))
	}
	defer func() {
		if err != nil {
			closeAll(files)
		}
	}()
	if err != nil {
		return s, nil, err
	}
	if _, err := io.ReadFull(c, head[n:]); err != nil {
		return s, nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if len(files) != 3 || size > maxSpec {
		return s, nil, errors.New("cannot read the session: malformed")
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(c, b); err != nil {
		return s, nil, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, nil, fmt.Errorf("cannot read the session: %w", err)
	}
	return s, files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Session is a client's side of a running command.
type Session struct {
	conn *net.UnixConn
	dec  *json.Decoder // of maxEvents in all: init may be a guest's
}

// maxEvents bounds what init tells the client of a session, in bytes.
const maxEvents = 1 << 20

// Start runs s in the environment with the given descriptors as its standard
// ones. They may be closed by the caller afterwards. When the client goes away
// the session gets SIGHUP.
func Start(ctx context.Context, d Dirs, name string, s Spec, stdio [3]int) (*Session, error) {
	c, err := Dial(ctx, d, name, ToInit)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := writeSpec(c, s, stdio); err != nil {
		c.Close()
		return nil, gone(err)
	}
	se := &Session{conn: c, dec: json.NewDecoder(io.LimitReader(c, maxEvents))}
	var e event
	if err := se.dec.Decode(&e); err != nil {
		c.Close()
		return nil, gone(err)
	}
	if e.Error != "" {
		c.Close()
		return nil, &ExitError{Code: e.Code, Err: errors.New(e.Error)}
	}
	return se, nil
}

// Gone says that err is the end of who was spoken to.
func Gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// gone tells an environment that ended while it was spoken to from other failures.
func gone(err error) error {
	if Gone(err) {
		return fmt.Errorf("the environment has ended: %w", ErrNotRunning)
	}
	return err
}

// Signal sends sig to the session's process group.
func (s *Session) Signal(sig syscall.Signal) error {
	return json.NewEncoder(s.conn).Encode(command{Signal: sig})
}

// Wait answers how the command ended.
func (s *Session) Wait() (syscall.WaitStatus, error) {
	var e event
	if err := s.dec.Decode(&e); err != nil {
		// Not ErrNotRunning, after which callers try again: the command has run.
		return 0, &ExitError{Code: ExitFailed, Err: fmt.Errorf("the environment ended before the command: %v", err)}
	}
	return syscall.WaitStatus(e.Status), nil
}

// Close gives the connection back; a session that still runs gets SIGHUP.
func (s *Session) Close() error { return s.conn.Close() }
