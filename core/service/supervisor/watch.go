package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/regular"
	"github.com/lxbridge/lx/core/service"
)

// awaitReady tells the machine when the unit's own proof holds; at once where it has none.
func (v *svc) awaitReady(run int) {
	r := v.m.Unit.Ready
	if r.Port == "" && len(r.Command) == 0 {
		v.handle(service.Event{Kind: service.IsReady})
		return
	}
	ctx, cancel := context.WithCancel(v.s.ctx)
	stop := v.cancel
	v.cancel = func() { cancel(); stop() }
	v.s.wg.Go(func() {
		for delay := 10 * time.Millisecond; ; delay = min(2*delay, 250*time.Millisecond) {
			if v.isReady(ctx, r) {
				v.s.post(func() {
					if v.main != 0 && v.m.State == service.Starting {
						v.handle(service.Event{Kind: service.IsReady})
					}
				})
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(delay):
			}
		}
	})
}

func (v *svc) isReady(ctx context.Context, r service.Ready) bool {
	if r.Port != "" {
		addr, err := service.HostPort(r.Port)
		if err != nil {
			return false
		}
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return false
		}
		c.Close()
	}
	if len(r.Command) > 0 {
		return v.command(ctx, r.Command, 10*time.Second) == nil
	}
	return true
}

// command runs a probe to its end. It is called outside of the owner.
func (v *svc) command(ctx context.Context, c service.Command, limit time.Duration) error {
	var p process
	err := v.s.ask(func() (err error) {
		p, err = v.start(c, nil)
		return err
	})
	if err != nil {
		return err
	}
	if err := <-p.Executed; err != nil {
		v.wait(p.Exit)
		return err
	}
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case ws := <-p.Exit:
		if e := service.ExitOf(ws); e != (service.Exit{}) {
			return errors.New(e.String())
		}
		return nil
	case <-ctx.Done():
	case <-late.C:
		err = fmt.Errorf("did not end within %v", limit)
	}
	_ = unix.Kill(-p.PID, unix.SIGKILL) // it may have ended just now
	v.wait(p.Exit)
	return errors.Join(ctx.Err(), err)
}

// adopt finds the main process of a forking service whose first has ended.
func (v *svc) adopt(run int) {
	u := v.m.Unit
	pid, err := 0, error(nil)
	if u.PIDFile != "" {
		pid, err = v.readPIDFile()
	} else if left := v.members(); len(left) > 0 {
		pid = slices.Min(left)
	}
	if err != nil {
		if v.m.State == service.Starting && len(v.members()) > 0 {
			// It may write the file a moment later.
			time.AfterFunc(20*time.Millisecond, func() {
				v.s.post(func() {
					if v.run == run && v.m.State == service.Starting {
						v.adopt(run)
					}
				})
			})
			return
		}
		v.handle(service.Event{Kind: service.NotMade, Err: err})
		return
	}
	if pid == 0 {
		v.handle(service.Event{Kind: service.NotMade, Err: errors.New("its first process ended and left none behind (type = \"forking\")")})
		return
	}
	exit, ok := v.s.cfg.Adopted(pid)
	if !ok {
		v.handle(service.Event{Kind: service.NotMade, Err: fmt.Errorf("process %d of %s is not there", pid, u.PIDFile)})
		return
	}
	v.follow(pid, exit)
	v.awaitReady(run)
}

// settling is how long after its start a daemon is looked at once more.
const settling = 500 * time.Millisecond

// follow makes pid the main process.
func (v *svc) follow(pid int, exit <-chan syscall.WaitStatus) {
	v.main = pid
	// A daemon may be on its way to a session of its own.
	time.AfterFunc(settling, func() {
		v.s.post(func() {
			if v.main == pid {
				v.members()
			}
		})
	})
	v.s.wg.Go(func() {
		ws, ok := v.wait(exit)
		if !ok {
			return
		}
		v.s.post(func() {
			if v.main != pid {
				return
			}
			v.main = 0
			v.handle(service.Event{Kind: service.Exited, Exit: service.ExitOf(ws)})
			v.checkGone()
		})
	})
}

// readPIDFile believes the file only if the process can be the service's: its
// writer may be an unprivileged user. Daemons leave their session, and some
// write over their environment, by which they would be known; they are init's
// then, and younger than the run.
func (v *svc) readPIDFile() (int, error) {
	path := v.m.Unit.PIDFile
	b, err := regular.ReadFile(path, maxFile)
	if err != nil {
		return 0, fmt.Errorf("cannot read pid-file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(firstLine(string(b))))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("pid-file %s does not hold a process id", path)
	}
	if slices.Contains(v.members(), pid) {
		return pid, nil
	}
	p, ok := stat(pid)
	if !ok || p.parent != os.Getpid() || p.began < v.beganTicks {
		return 0, fmt.Errorf("process %d of %s is none of the service's", pid, path)
	}
	return pid, nil
}

// firstLine of a PID file: PostgreSQL's has more.
func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// watchHealth runs the health command while the service is up.
func (v *svc) watchHealth() {
	h := v.m.Unit.Health
	if h == nil {
		return
	}
	ctx, cancel := context.WithCancel(v.s.ctx)
	stop := v.cancel
	v.cancel = func() { cancel(); stop() }
	mark := v.mark
	v.s.wg.Go(func() {
		t := time.NewTicker(time.Duration(h.Interval))
		defer t.Stop()
		for failures := 0; ; {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			err := v.command(ctx, h.Command, time.Duration(h.Timeout))
			if err == nil || ctx.Err() != nil {
				failures = 0
				continue
			}
			if failures++; failures < h.Retries {
				continue
			}
			v.s.post(func() {
				if v.mark == mark {
					v.handle(service.Event{Kind: service.Unwell, Err: fmt.Errorf("%d health checks in a row failed: %w", failures, err)})
				}
			})
			return
		}
	})
}
