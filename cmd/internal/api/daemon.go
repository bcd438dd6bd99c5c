package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/cmd/internal/owner"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/ns"
	"github.com/lxbridge/lx/core/updates"
	"github.com/lxbridge/lx/portbroker"
)

// Version of the daemon's interface: the first part of every path.
const Version = 1

// Status is the daemon itself.
type Status struct {
	API     int       `json:"api"`
	Version string    `json:"version"` // of lx
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Manager string    `json:"manager"` // "systemd", or "none": what keeps it
}

// Environment is a line of the list.
type Environment struct {
	Name    string    `json:"name"`
	Default bool      `json:"default"`
	Running bool      `json:"running"`
	Wanted  bool      `json:"wanted"` // runs whenever the daemon does
	Source  string    `json:"source,omitempty"`
	Map     ns.Kind   `json:"map,omitempty"`
	Created time.Time `json:"created,omitzero"`
}

// StartOptions count when an environment starts.
type StartOptions struct {
	Map        ns.Kind  `json:"map,omitempty"`
	IOUring    bool     `json:"ioUring,omitempty"`
	Privileged bool     `json:"privileged,omitempty"`
	Home       string   `json:"home,omitempty"` // of the user, for the host environment
	Shell      string   `json:"shell,omitempty"`
	Environ    []string `json:"environ,omitempty"` // of the keeper
}

// Daemon is a client of the user's daemon.
type Daemon struct {
	dirs env.Dirs
	http http.Client
}

// Dial makes a client of the daemon; ErrNotRunning where there is none.
func Dial(ctx context.Context, d env.Dirs) (*Daemon, error) {
	c, err := env.DialDaemon(ctx, d)
	if err != nil {
		return nil, err
	}
	c.Close()
	return &Daemon{d, http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return env.DialDaemon(ctx, d)
		},
	}}}, nil
}

// Connect is Dial, after it has started the daemon if need be, or another in the
// place of one that is not of this version of lx, which would start what it
// itself is. Several callers at once start one.
func Connect(ctx context.Context, d env.Dirs, version string) (*Daemon, error) {
	c, err := Dial(ctx, d)
	if err == nil {
		var s Status
		if s, err = c.Status(ctx); err == nil && s.Version == version {
			return c, nil
		}
		if err == nil {
			if err = c.Stop(ctx); err == nil {
				err = d.Ended(ctx, env.DaemonName, s.PID)
			}
		}
	}
	if err != nil && !errors.Is(err, env.ErrNotRunning) && !vanished(err) {
		return nil, err
	}
	return start(ctx, d)
}

// start starts the daemon unless it runs.
func start(ctx context.Context, d env.Dirs) (*Daemon, error) {
	unlock, err := env.LockStart(ctx, d, env.DaemonName)
	if err != nil {
		return nil, fmt.Errorf("cannot start the daemon: %w", err)
	}
	defer unlock()
	if c, err := Dial(ctx, d); !errors.Is(err, env.ErrNotRunning) {
		return c, err
	}
	if Manager() {
		err = launchManaged(ctx, d)
	} else {
		err = owner.Detach(ctx, d, env.DaemonName, env.RoleDaemon, "`lx daemon logs`")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot start the daemon: %w", err)
	}
	return Dial(ctx, d)
}

// Manager says whether a systemd user manager is there to start the daemon, so
// that it is none of the login session's processes, which end with that.
func Manager() bool {
	if _, err := exec.LookPath("systemd-run"); err != nil {
		return false
	}
	st, err := os.Stat(filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "systemd", "private"))
	return err == nil && os.Getenv("XDG_RUNTIME_DIR") != "" && st.Mode()&os.ModeSocket != 0
}

// launchManaged has the user manager run the daemon. What the daemon starts
// outlives it (KillMode).
func launchManaged(ctx context.Context, d env.Dirs) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"--user", "--quiet", "--collect", "--unit=lx-daemon", "--description=lx daemon",
		"--property=Type=notify", "--property=KillMode=process", "--property=Delegate=yes", "--property=Restart=on-failure",
		"--setenv=" + env.RuntimeVar + "=" + d.Runtime, "--setenv=PATH=" + os.Getenv("PATH")}
	for _, name := range []string{"HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		if v, ok := os.LookupEnv(name); ok {
			args = append(args, "--setenv="+name+"="+v)
		}
	}
	out, err := exec.CommandContext(ctx, "systemd-run", append(args, "--", exe, "daemon", "start", "--foreground")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemd-run --user: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Status asks who the daemon is.
func (c *Daemon) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "daemon", nil, &s)
}

// Stop ends the daemon; environments go on.
func (c *Daemon) Stop(ctx context.Context) error {
	return c.call(ctx, http.MethodDelete, "daemon", nil, nil)
}

// Environments lists all.
func (c *Daemon) Environments(ctx context.Context) (list []Environment, err error) {
	return list, c.call(ctx, http.MethodGet, "environments", nil, &list)
}

// Start starts an environment unless it runs.
func (c *Daemon) Start(ctx context.Context, name string, o StartOptions) error {
	return c.call(ctx, http.MethodPost, environment(name, "start"), o, nil)
}

// StopEnvironment ends one; it succeeds where it does not run.
func (c *Daemon) StopEnvironment(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodPost, environment(name, "stop"), nil, nil)
}

// SetWanted says whether the environment runs whenever the daemon does.
func (c *Daemon) SetWanted(ctx context.Context, name string, wanted bool) error {
	return c.call(ctx, http.MethodPut, environment(name, "wanted"), wanted, nil)
}

// SetDefault makes the environment the one that is meant where none is named.
func (c *Daemon) SetDefault(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodPut, "default", name, nil)
}

// Rename gives a stopped environment another name.
func (c *Daemon) Rename(ctx context.Context, from, to string) error {
	return c.call(ctx, http.MethodPut, environment(from, "name"), to, nil)
}

// Remove removes an environment; one that runs only with force.
func (c *Daemon) Remove(ctx context.Context, name string, force bool) error {
	q := ""
	if force {
		q = "?force=true"
	}
	return c.call(ctx, http.MethodDelete, environment(name)+q, nil, nil)
}

// RenewReservations has the rules for ports read again, and answers what is
// reserved.
func (c *Daemon) RenewReservations(ctx context.Context) (all []portbroker.Reservation, err error) {
	return all, c.call(ctx, http.MethodPost, "reservations", nil, &all)
}

// CheckUpdates starts the environment if need be, asks its servers, and answers
// what is behind.
func (c *Daemon) CheckUpdates(ctx context.Context, name string) (r updates.Report, err error) {
	return r, c.call(ctx, http.MethodPost, environment(name, "updates"), nil, &r)
}

// LoggedIn says that somebody opens a shell in the environment: a check for
// updates that is due begins. It waits for nothing.
func (c *Daemon) LoggedIn(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodPost, environment(name, "login"), nil, nil)
}

func environment(name string, more ...string) string {
	return strings.Join(append([]string{"environments", url.PathEscape(name)}, more...), "/")
}

// Failure is the body of an answer that is not a success.
type Failure struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}

// failed is a Failure as the client's error, with a hint line.
type failed struct{ Failure }

func (f failed) Error() string { return f.Failure.Error }

// Hint is what to type next.
func (f failed) Hint() string { return f.Failure.Hint }

// vanished says that the other side of a connection has gone.
func vanished(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

func (c *Daemon) call(ctx context.Context, method, path string, in, out any) error {
	req, err := request(ctx, method, path, in)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if again := method == http.MethodGet || method == http.MethodPost; err != nil && again && vanished(err) {
		// It ended while it was asked: the next one answers. A new request, since
		// the body has been read.
		if _, err := start(ctx, c.dirs); err != nil {
			return err
		}
		retry := req.Clone(ctx)
		if req.GetBody != nil {
			if retry.Body, err = req.GetBody(); err != nil {
				return err
			}
		}
		resp, err = c.http.Do(retry)
	}
	return decode(resp, err, "the daemon", out)
}

// request asks for path, with in as its body unless that is nil.
func request(ctx context.Context, method, path string, in any) (*http.Request, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	return http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://lx/v%d/%s", Version, path), body)
}

// decode reads what was answered into out.
func decode(resp *http.Response, err error, who string, out any) error {
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return fmt.Errorf("cannot ask %s: %w", who, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		var f failed
		if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&f.Failure); err != nil || f.Failure.Error == "" {
			return fmt.Errorf("cannot ask %s: %s", who, resp.Status)
		}
		if f.Failure.Hint == "" {
			return errors.New(f.Failure.Error)
		}
		return f
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("cannot read the answer of %s: %w", who, err)
	}
	return nil
}
