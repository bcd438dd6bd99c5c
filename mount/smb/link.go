package smb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/cloudsoda/go-smb2"

	"github.com/lxbridge/lx/mount/volume"
)

// credits is how much may be in flight, in units of 64 KiB (MS-SMB2 3.2.1.2).
const credits = 512

// link is one connection, logged in and attached to the share. It is dead
// once and for ever: what follows it is another link.
type link struct {
	cfg     *Config
	wire    *wire
	session *smb2.Session
	share   *smb2.Share
	big     chan struct{} // a slot for each large transfer, so that credits never run out

	// ctx is what the transport's calls run under. It ends with the link and
	// not before: a send given up half way leaves the transport's buffers in
	// disorder.
	ctx  context.Context
	end  context.CancelFunc
	once sync.Once
	dead chan struct{} // closed by kill
	err  error         // why, once dead is closed
	wg   sync.WaitGroup
}

// connect dials, logs in and attaches the share within ctx and cfg.DialTimeout.
func connect(ctx context.Context, cfg *Config) (*link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.DialTimeout, errSilent)
	defer cancel()
	addr := net.JoinHostPort(cfg.Address, strconv.Itoa(cfg.Port))
	tcp, err := cfg.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, dialError(ctx, cfg, addr, err)
	}
	l := &link{cfg: cfg, dead: make(chan struct{}), big: make(chan struct{}, credits/2/16)}
	l.ctx, l.end = context.WithCancel(context.Background())
	l.wire = &wire{Conn: tcp, seal: cfg.Seal, failed: l.kill}
	l.wire.heard.Store(int64(time.Since(epoch)))
	if err := l.login(ctx); err != nil {
		l.kill(err)
		return nil, err
	}
	l.wg.Go(l.watch)
	return l, nil
}

var errSilent = errors.New("the server does not answer")

// dialError gives a failed connect the errno of the kernel's cifs.
func dialError(ctx context.Context, cfg *Config, addr string, err error) error {
	e := &volume.Error{Op: "connect to", Name: addr, Errno: volume.Errno(err), Err: err}
	var dns *net.DNSError
	switch {
	case ctx.Err() != nil && context.Cause(ctx) != errSilent:
		return fmt.Errorf("cannot connect to %s: %w", addr, context.Cause(ctx))
	case errors.As(err, &dns):
		e.Errno, e.Reason = syscall.EHOSTUNREACH, fmt.Sprintf("the name %s cannot be resolved: %v", cfg.Address, dns.Err)
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Reason = "the server refuses connections on port " + strconv.Itoa(cfg.Port)
	case ctx.Err() != nil, errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		e.Errno, e.Reason = syscall.EHOSTDOWN, errSilent.Error()
	case e.Errno == syscall.EIO:
		e.Errno = syscall.EHOSTDOWN
	}
	return e
}

// login negotiates, sets the session up and connects to the tree (MS-SMB2 3.2.4.2).
func (l *link) login(ctx context.Context) (err error) {
	cfg := l.cfg
	defer func() {
		if r := recover(); r != nil {
			err = l.loginError(ctx, "log in to", fmt.Errorf("the server's answer is broken: %v", r))
		}
	}()
	ntlm := &smb2.NTLMInitiator{Workstation: cfg.Workstation, TargetSPN: "cifs/" + cfg.Server}
	if !cfg.Guest {
		ntlm.User, ntlm.Password, ntlm.Domain = cfg.User, string(cfg.Password), cfg.Domain
	}
	d := &smb2.Dialer{MaxCreditBalance: credits, Initiator: ntlm}
	d.Negotiator.RequireMessageSigning = cfg.Sign
	if len(cfg.Dialects) == 1 {
		d.Negotiator.SpecifiedDialect = uint16(cfg.Dialects[0])
	}
	if l.session, err = d.DialConn(ctx, l.wire, cfg.Server); err != nil {
		return l.loginError(ctx, "log in to", err)
	}
	if got := Dialect(l.wire.dialect.Load()); got != 0 && !slices.Contains(cfg.Dialects, got) {
		return &volume.Error{Op: "log in to", Name: cfg.unc(), Errno: syscall.EOPNOTSUPP,
			Reason: fmt.Sprintf("the server chose SMB %v, which vers= excludes", got)}
	}
	l.session = l.session.WithContext(ctx)
	if l.share, err = l.session.Mount(`\\` + cfg.Server + `\` + cfg.Share); err != nil {
		return l.loginError(ctx, "attach", err)
	}
	l.session, l.share = l.session.WithContext(l.ctx), l.share.WithContext(l.ctx)
	l.wire.established.Store(true)
	return nil
}

// loginError finds the reason the transport does not pass on.
func (l *link) loginError(ctx context.Context, op string, err error) error {
	cfg := l.cfg
	e := &volume.Error{Op: op, Name: cfg.unc(), Errno: volume.Errno(failure(op, "", err)), Err: err}
	var response *smb2.ResponseError
	if errors.As(err, &response) {
		l.wire.refusal.Store(response.Code)
	}
	refusal := status(l.wire.refusal.Load())
	switch {
	case ctx.Err() != nil && context.Cause(ctx) == errSilent:
		e.Errno, e.Reason = syscall.EHOSTDOWN, errSilent.Error()
	case ctx.Err() != nil:
		return fmt.Errorf("cannot %s %s: %w", op, cfg.unc(), context.Cause(ctx))
	case op == "attach" && refusal != 0:
		e.Errno, e.Reason = refusal.errno(), refusal.String()
	case refusal != 0 && cfg.Guest:
		e.Errno, e.Reason = refusal.errno(), fmt.Sprintf("the server lets no guest in: %v", refusal)
	case refusal != 0:
		e.Errno, e.Reason = refusal.errno(), fmt.Sprintf("the server refused user %q: %v", cfg.User, refusal)
	case isTransport(err):
		e.Errno, e.Reason = syscall.EHOSTDOWN, "the server closed the connection; it may not speak SMB "+dialects(cfg.Dialects)
	}
	return e
}

func dialects(list []Dialect) string {
	s := ""
	for i, d := range list {
		if i > 0 {
			s += ", "
		}
		s += d.String()
	}
	return s
}

func isTransport(err error) bool {
	var t *smb2.TransportError
	return errors.As(err, &t) || errors.Is(err, io.EOF)
}

// kill ends the link; the first reason stays.
func (l *link) kill(why error) {
	l.once.Do(func() {
		l.err = why
		close(l.dead)
		_ = l.wire.Conn.Close() // the reason is told already
		l.end()
	})
}

// failure is what a call that met the link's death answers.
func (l *link) failure(op string) error {
	var known *volume.Error
	if errors.As(l.err, &known) {
		return l.err
	}
	return &volume.Error{Op: op + " on", Name: l.cfg.unc(), Errno: syscall.EHOSTDOWN,
		Reason: fmt.Sprintf("the connection ended: %v", l.err), Err: l.err}
}

// alive reports whether the link can still be used.
func (l *link) alive() bool {
	select {
	case <-l.dead:
		return false
	default:
		return true
	}
}

// watch asks a silent server for an echo and gives it up after EchoInterval
// twice, as cifs does. It ends with the link.
func (l *link) watch() {
	tick := time.NewTicker(max(l.cfg.EchoInterval/4, time.Millisecond))
	defer tick.Stop()
	echo := make(chan struct{}, 1)
	for {
		select {
		case <-l.dead:
			return
		case <-tick.C:
		}
		switch silence := l.wire.silence(); {
		case silence >= 2*l.cfg.EchoInterval:
			l.kill(&volume.Error{Op: "reach", Name: l.cfg.unc(), Errno: syscall.EHOSTDOWN,
				Reason: fmt.Sprintf("the server has been silent for %v", silence.Round(time.Millisecond))})
		case silence >= l.cfg.EchoInterval:
			select {
			case echo <- struct{}{}:
				l.wg.Go(func() {
					_ = l.session.Echo() // only that something comes back counts
					<-echo
				})
			default: // the last one is still on its way
			}
		}
	}
}

// close logs off where the server still answers, and waits for the link's goroutines.
func (l *link) close() {
	if l.alive() {
		done := make(chan struct{})
		l.wg.Go(func() {
			defer close(done)
			defer func() { _ = recover() }() // an answer to nobody
			_ = l.session.Logoff()           // the connection ends either way
		})
		select {
		case <-done:
		case <-time.After(min(2*time.Second, 2*l.cfg.EchoInterval)):
		}
	}
	l.kill(errClosed)
	l.wg.Wait()
}

var errClosed = errors.New("the volume is closed")
