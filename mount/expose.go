package mount

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
)

// Expose serves what guests see at target (else: what was mounted under that
// source or key) on another FUSE connection as well, one that the host has
// mounted. It returns at once; serving ends with that mount or with the
// guests' own. It owns fd.
func (b *Broker) Expose(target string, fd int) error {
	m, err := b.named(target)
	if err == nil {
		err = b.expose(m, fd)
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("cannot expose %s: %w", target, err)
	}
	return nil
}

func (b *Broker) expose(m *mounted, fd int) error {
	if m.vol == nil {
		return errRestarted
	}
	show, err := outside()
	if err != nil {
		return err
	}
	fs := m.driver.present(m.vol, m.options, show, m.journal.note)
	_, cfg := m.driver.arrange(m.vol, m.options)
	server, err := fuse.New(fs, cfg)
	if err != nil {
		return err
	}
	fs.SetNotifier(server)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return errors.New("it has just been unmounted")
	}
	e := exposure{server, fs}
	m.exposed = append(m.exposed, e)
	go func() { // ends with the host's mount, or our process
		if err := server.Serve(b.ctx, fd); err != nil {
			m.journal.note(fmt.Errorf("cannot serve an exposed mount: %w", err))
		}
		e.drain(m)
		m.mu.Lock()
		m.exposed = slices.DeleteFunc(m.exposed, func(o exposure) bool { return o.server == server })
		m.mu.Unlock()
	}()
	return nil
}

// exposure is a file system served once more.
type exposure struct {
	server *fuse.Server
	fs     fileSystem
}

// end answers everything with EIO: the guests' own mount is gone.
func (e exposure) end(m *mounted) {
	e.server.Abort()
	e.drain(m)
}

func (e exposure) drain(m *mounted) {
	if err := e.fs.Drain(m.ctx); err != nil {
		m.journal.note(fmt.Errorf("data was lost on an exposed mount: %w", err))
	}
}

// named finds a mount by where it is, by what is mounted, or by its key.
func (b *Broker) named(name string) (*mounted, error) {
	seen, err := targets()
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, is := range []func(*mounted) bool{
		func(m *mounted) bool { return seen[m.Dev] == name && m.state() != Unmounted },
		func(m *mounted) bool { return m.Key == name || m.Source == name },
	} {
		for _, m := range b.mounts {
			if is(m) {
				return m, nil
			}
		}
	}
	return nil, fmt.Errorf("nothing of lx is mounted there: %w", syscall.ENOENT)
}
