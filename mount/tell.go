package mount

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/guest"
)

// telling is a reason that was told, and to which process.
type telling struct {
	tgid int
	text string
}

// tellTime bounds telling: a terminal may be stopped.
const tellTime = 200 * time.Millisecond

// tell writes why mount(2) failed to the standard error of a caller that is
// mount(8) or one of its helpers, which learn an errno only. It is written to
// terminals and pipes, where it cannot damage anything, and once: mount(8)
// tries again read-only.
func (b *Broker) tell(ctx context.Context, t guest.Thread, reason error) {
	s, err := t.Status()
	if err != nil || s.Name != "mount" && !strings.HasPrefix(s.Name, "mount.") || ctx.Err() != nil {
		return
	}
	now := telling{s.TGID, line(reason)}
	b.mu.Lock()
	again := b.told == now
	b.told = now
	b.mu.Unlock()
	if again {
		return
	}
	fd, err := t.GetFD(2)
	if err != nil {
		return
	}
	done := make(chan error, 1)
	go func() { // opening and writing may hang in somebody's file system
		defer unix.Close(fd)
		done <- write(fd, now.text)
	}()
	select {
	case err := <-done:
		if err != nil {
			b.cfg.Log.Debug("cannot tell the caller", "err", err)
		}
	case <-time.After(tellTime):
	case <-ctx.Done():
	}
}

// line is one line of text that harms no terminal.
func line(reason error) string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, reason.Error())
	return "lx: " + text + "\n"
}

// write writes to the file of fd without waiting. It is opened anew: being
// non-blocking belongs to the open file, which others use.
func write(fd int, text string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch major := unix.Major(st.Rdev); {
	case st.Mode&unix.S_IFMT == unix.S_IFIFO:
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && (major == 4 || major == 5 || major >= 136 && major <= 143): // ttys, and ptys
	default:
		return fmt.Errorf("neither a terminal nor a pipe")
	}
	own, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(own)
	_, err = unix.Write(own, []byte(text))
	return err
}
