package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/service"
	"github.com/lxbridge/lx/core/service/crontab"
)

// The crontabs that are honoured, below Config.Crontabs. Users' are named
// after their user, and keep the environment; the system's, which
// distributions bring along, run while it runs.
var (
	systemCrontab = "etc/crontab"
	systemDir     = "etc/cron.d"
	userDirs      = []string{"var/spool/cron/crontabs", "var/spool/cron", "etc/crontabs"} // Debian, Fedora, Alpine
)

// maxCrontab bounds a file, in bytes.
const maxCrontab = 1 << 20

// cronPath is PATH of a crontab's commands (crontab(5)).
const cronPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// readCrontabs makes a unit of each entry. What is wrong is told by tell.
func (s *Supervisor) readCrontabs(tell func(path string, err error)) map[string]cronUnit {
	units := map[string]cronUnit{}
	seen := map[string]bool{} // one file by two names
	read := func(path, user string) {
		text, id, err := readRegular(path)
		if errors.Is(err, os.ErrNotExist) || err == nil && seen[id] {
			return
		}
		seen[id] = true
		if err != nil {
			tell(path, err)
			return
		}
		entries, err := crontab.Parse(text, user == "")
		if err != nil {
			tell(path, err)
		}
		for _, e := range entries {
			u := cronEntry(path, user, e)
			units[u.unit.Name] = u
		}
	}
	at := func(name string) string { return filepath.Join(s.cfg.Crontabs, name) }
	read(at(systemCrontab), "")
	for _, name := range fileNames(at(systemDir)) {
		// Names with dots are packages' leftovers (cron(8)).
		if !strings.Contains(name, ".") && !strings.HasSuffix(name, "~") {
			read(filepath.Join(at(systemDir), name), "")
		}
	}
	for _, dir := range userDirs {
		for _, name := range fileNames(at(dir)) {
			if !strings.HasPrefix(name, ".") && name != "crontabs" && !strings.HasPrefix(name, "tmp.") {
				read(filepath.Join(at(dir), name), name)
			}
		}
	}
	return units
}

// cronPrefix begins the names of crontabs' entries.
const cronPrefix = "cron@"

// cronUnit is an entry as a unit.
type cronUnit struct {
	unit  service.Unit
	input string
	path  string // FILE:LINE
	user  bool   // of a user's crontab
}

func cronEntry(path, user string, e crontab.Entry) cronUnit {
	shell := "/bin/sh"
	env := map[string]string{"PATH": cronPath}
	for k, v := range e.Env {
		if k == "SHELL" {
			shell = v
		}
		env[k] = v
	}
	delete(env, "LOGNAME") // not to be set (crontab(5))
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return '_'
	}, filepath.Base(path))
	who := "system"
	if user != "" {
		who, e.User = "user", user
	}
	no := 0
	u := service.Unit{
		Name: fmt.Sprintf(cronPrefix+"%s.%s:%d", who, name, e.Line), Description: e.Command, Type: service.Oneshot, Command: service.Command{shell, "-c", e.Command},
		Env: env, User: e.User, Dir: "-~", Schedule: e.Schedule, Restart: service.RestartNo, KillMode: service.KillProcess,
		StopTimeout: service.Duration(service.DefaultStopTimeout), StartLimit: &no,
	}
	return cronUnit{unit: u, input: e.Input, path: fmt.Sprintf("%s:%d", path, e.Line), user: user != ""}
}

func fileNames(dir string) (names []string) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil // most distributions lack some
	}
	for _, e := range list {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names
}

// readRegular reads a file that is none of a link, and says which it is.
func readRegular(path string) (text, id string, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", "", err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return "", "", errors.New("no regular file")
	case st.Mode&0o022 != 0:
		return "", "", fmt.Errorf("others may write it (mode %#o)", st.Mode&0o777)
	case st.Size > maxCrontab:
		return "", "", errors.New("too large")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxCrontab))
	return string(b), fmt.Sprint(st.Dev, ":", st.Ino), err
}

// loadCrontabs brings the units of crontabs up to date. atBoot runs @reboot.
func (s *Supervisor) loadCrontabs(atBoot bool) {
	now := time.Now()
	s.cronErrors = nil
	units := s.readCrontabs(func(path string, err error) {
		s.cronErrors = append(s.cronErrors, fmt.Sprintf("crontab %s: %v", path, err))
	})
	for name, v := range s.services {
		if !strings.HasPrefix(name, cronPrefix) {
			continue
		}
		if _, ok := units[name]; !ok {
			v.disarm()
			if stopped(&v.m) {
				delete(s.services, name)
			}
		}
	}
	for name, cu := range units {
		v, ok := s.services[name]
		same := ok && v.armed && v.next.Schedule == cu.unit.Schedule
		if !ok {
			v = s.newService(name)
			s.services[name] = v
		}
		v.next, v.input, v.origin, v.background = cu.unit, cu.input, cu.path, !cu.user
		if stopped(&v.m) {
			v.m.Unit = v.next
		}
		if same {
			continue
		}
		v.armed = true
		sc, err := service.ParseSchedule(cu.unit.Schedule)
		switch {
		case err != nil:
		case cu.unit.Schedule != "@reboot":
			v.due = sc.Next(now)
		case atBoot:
			v.due = now
		}
	}
	s.schedule()
}

// watchCrontabs loads crontabs anew when they change, until ctx ends.
func (s *Supervisor) watchCrontabs(ctx context.Context) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot watch crontabs: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	const events = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_CREATE | unix.IN_ATTRIB
	watch := func() {
		for _, dir := range append([]string{"etc", systemDir, "var/spool"}, userDirs...) {
			// One that is missing is watched when it is there; twice changes nothing.
			_, _ = unix.InotifyAddWatch(fd, filepath.Join(s.cfg.Crontabs, dir), events|unix.IN_ONLYDIR)
		}
	}
	watch()
	s.wg.Go(func() {
		defer f.Close()
		defer context.AfterFunc(ctx, func() { f.Close() })()
		buf := make([]byte, 16<<10)
		for {
			if _, err := f.Read(buf); err != nil {
				return
			}
			watch()
			s.post(func() { s.loadCrontabs(false) })
		}
	})
	return nil
}
