package updates

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/config"
)

// Role is the argv[0] of the process inside that checks.
const Role = "lx-updates"

// Request is what that process is asked, in JSON as its one argument.
type Request struct {
	// Dir takes lists and caches.
	Dir string `json:"dir"`
	// Own: the environment has files of its own, and what its own configuration
	// says counts where the user's says nothing.
	Own bool `json:"own,omitempty"`
	// Check and Auto are the user's settings.
	Check *bool  `json:"check,omitempty"`
	Auto  string `json:"auto,omitempty"`
	// Asked: somebody wants to know now. The lists are had anew, whatever their
	// age and the settings, and nothing is installed.
	Asked bool `json:"asked,omitempty"`
}

// InsideDir is Request.Dir for an environment with files of its own.
const InsideDir = "/var/cache/lx/updates"

// Main is the process of Role; it answers a Report in JSON on standard output,
// and an exit code. It ends with its session, unless it installs.
func Main() int {
	var r Request
	if len(os.Args) != 2 || json.Unmarshal([]byte(os.Args[1]), &r) != nil {
		return 2
	}
	if json.NewEncoder(os.Stdout).Encode(check(r)) != nil {
		return 1
	}
	return 0
}

// lowly runs f on a thread of the lowest priorities, which its children have too;
// they cannot be had back, so the thread ends with f.
func lowly(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		_ = errors.Join(unix.Setpriority(unix.PRIO_PROCESS, 0, 19), idleIO()) // it works without
		f()
	}()
	<-done
}

// idleIO is ioprio_set(2) of this thread to the idle class.
func idleIO() error {
	const whoProcess, classIdle, classShift = 1, 3, 13
	if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, classIdle<<classShift); errno != 0 {
		return errno
	}
	return nil
}

func check(r Request) Report {
	s := config.Settings{CheckUpdates: r.Check, AutoUpdate: r.Auto}
	if r.Own {
		// What is wrong with it was said at the start.
		if inside, err := config.LoadInside(); err == nil {
			s = s.Merge(inside)
		}
	}
	if !r.Asked && s.CheckUpdates != nil && !*s.CheckUpdates {
		return Report{Off: true, Checked: time.Now()}
	}
	failed := func(err error) Report { return Report{Error: err.Error(), Failed: time.Now()} }
	m := find()
	if m == nil {
		return failed(errors.New("no package manager that lx knows (apt, dnf, zypper, apk, pacman)"))
	}
	dir := filepath.Join(r.Dir, m.name)
	var report Report
	var err error
	lowly(func() { report, err = m.check(dir, r.Asked) })
	if err != nil {
		return failed(err)
	}
	if r.Asked || !report.wants(s.AutoUpdate) {
		return report
	}
	// At the usual priority: what is installed may start services.
	u := &Update{At: time.Now(), What: s.AutoUpdate}
	if err := m.install(s.AutoUpdate, report.Listing); err != nil {
		u.Error = err.Error()
	}
	lowly(func() { report, err = m.check(dir, false) })
	if err != nil {
		report = failed(err)
	}
	report.Update = u
	return report
}

// wants says whether there is something for auto-update to install.
func (r Report) wants(auto string) bool {
	switch auto {
	case config.UpdateAll:
		return len(r.Packages) > 0
	case config.UpdateSecurity:
		return r.Security == nil && len(r.Packages) > 0 || r.Security != nil && *r.Security > 0
	}
	return false
}

// check compares what is installed with the lists in dir, which are had anew if
// they are a day old, or fresh says so.
func (m *manager) check(dir string, fresh bool) (Report, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Report{}, fmt.Errorf("cannot keep lists of packages: %w", err)
	}
	if m.prepare != nil {
		if err := m.prepare(dir); err != nil {
			return Report{}, fmt.Errorf("cannot keep lists of packages: %w", err)
		}
	}
	// Its modification is the time of the last refresh.
	stamp := filepath.Join(dir, "refreshed")
	st, err := os.Stat(stamp)
	if age := func() time.Duration { return time.Since(st.ModTime()) }; fresh || err != nil || age() >= Daily || age() < 0 {
		if _, err := m.refresh.output(dir); err != nil {
			return Report{}, err
		}
		if err := os.WriteFile(stamp, nil, 0o644); err != nil {
			return Report{}, fmt.Errorf("cannot keep lists of packages: %w", err)
		}
		now := time.Now()
		if err := os.Chtimes(stamp, now, now); err != nil {
			return Report{}, fmt.Errorf("cannot keep lists of packages: %w", err)
		}
		if st, err = os.Stat(stamp); err != nil {
			return Report{}, fmt.Errorf("cannot keep lists of packages: %w", err)
		}
	}
	list, err := m.list.output(dir)
	if err != nil {
		return Report{}, err
	}
	var security []byte
	if m.security.argv != nil {
		if security, err = m.security.output(dir); err != nil {
			return Report{}, err
		}
	}
	l, err := m.parse(list, security)
	return Report{Manager: m.name, Listing: l, Checked: time.Now(), Refreshed: st.ModTime()}, err
}

// install does auto-update. A session that is hung up does not end it: what
// installs is not to be killed.
func (m *manager) install(what string, l Listing) error {
	update := m.updateAll
	if what == config.UpdateSecurity {
		update = m.updateSecurity
	}
	if update == nil {
		return fmt.Errorf("%s does not tell which updates are of security: auto-update = \"security\" installs none", m.name)
	}
	signal.Ignore(syscall.SIGHUP)
	for _, c := range update(l) {
		if _, err := c.output(""); err != nil {
			return err
		}
	}
	return nil
}

// Bounds of what a command may say, in bytes.
const (
	maxOutput = 8 << 20
	maxWhy    = 400
)

// output runs the command to its end.
func (c command) output(dir string) ([]byte, error) {
	in := func(words []string) (out []string) {
		for _, w := range words {
			out = append(out, strings.ReplaceAll(w, "{}", dir))
		}
		return out
	}
	argv := in(c.argv)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(append(os.Environ(), "LC_ALL=C", "LANGUAGE="), in(c.env)...)
	var out, why bounded
	cmd.Stdout, cmd.Stderr = &out, &why
	err := cmd.Run()
	var ee *exec.ExitError
	switch {
	case out.over:
		return nil, fmt.Errorf("%s says more than %d bytes", c, maxOutput)
	case err == nil:
		return out.kept, nil
	case errors.As(err, &ee) && slices.Contains(c.ok, ee.ExitCode()):
		return out.kept, nil
	case errors.As(err, &ee) && c.none != 0 && ee.ExitCode() == c.none && len(bytes.TrimSpace(why.kept)) == 0:
		return nil, nil
	}
	said := bytes.TrimSpace(why.kept)
	if len(said) == 0 {
		said = bytes.TrimSpace(out.kept)
	}
	if len(said) > maxWhy {
		said = said[len(said)-maxWhy:]
	}
	return nil, fmt.Errorf("%s: %w: %s", c, err, strings.ToValidUTF8(string(said), "?"))
}

// String is the command for people: its program and verb.
func (c command) String() string {
	i := slices.IndexFunc(c.argv[1:], func(w string) bool { return w[0] != '-' && w[0] != '{' && w[0] != '/' && !strings.Contains(w, ":") })
	if i < 0 {
		return c.argv[0]
	}
	return c.argv[0] + " " + c.argv[1+i]
}

// bounded keeps what is written, up to maxOutput.
type bounded struct {
	kept []byte
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.over = b.over || len(b.kept)+len(p) > maxOutput; !b.over {
		b.kept = append(b.kept, p...)
	}
	return len(p), nil
}
