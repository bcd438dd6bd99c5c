package hub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/devices/usb/host"
	"github.com/lxbridge/lx/devices/usb/sysfs"
	"github.com/lxbridge/lx/devices/usb/usbfs"
)

const (
	maxTries = 4               // of an environment that refuses
	endTime  = 2 * time.Second // for the end of mounts that are taken away
)

// entry is an environment in which the devices are shown.
type entry struct {
	keeper int           // its process: another environment of the name has another
	done   chan struct{} // closed when they are in place, or cannot be
	err    error         // why; set before done is closed
}

// mounts are what environments get, and where.
func mounts() []env.Mount {
	bus := env.MountPart{Part: sysfs.BusPart, Target: "/sys/bus/usb"}
	if _, err := os.Stat("/sys/bus/usb/devices"); err == nil {
		bus = env.MountPart{Part: sysfs.DevicesPart, Target: "/sys/bus/usb/devices"}
	}
	m := env.Mount{Subtype: "lx.usb"}
	for _, n := range []int{host.HighSpeedBus, host.SuperSpeedBus} {
		m.Places = append(m.Places, env.MountPart{Part: fmt.Sprintf("%03d", n), Target: fmt.Sprintf("/dev/bus/usb/%03d", n)})
	}
	return []env.Mount{m, {Subtype: "lx.sysfs", Places: []env.MountPart{{Part: sysfs.ControllerPart, Target: "/sys/devices/" + sysfs.Controller}, bus}}}
}

// enterAll enters the environments that run and are not entered yet.
func (h *hub) enterAll() {
	names, err := h.dirs.Names()
	if err != nil {
		h.log.Warn("environments", "err", err)
	}
	for _, name := range names {
		h.enter(name)
	}
}

// enter shows the devices in an environment as long as it runs.
func (h *hub) enter(name string) *entry {
	keeper, _ := h.dirs.Process(name)
	h.mu.Lock()
	defer h.mu.Unlock()
	if e, ok := h.entered[name]; ok && e.keeper == keeper || h.life.Err() != nil {
		return e
	}
	e := &entry{keeper: keeper, done: make(chan struct{})}
	h.entered[name] = e
	h.wg.Go(func() {
		h.stay(h.life, name, e)
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.entered[name] == e {
			delete(h.entered, name)
		}
	})
	return e
}

// stay has the mounts in place until the environment, or ctx, ends. A broker that ends
// leaves them; its successor is told that they are there.
func (h *hub) stay(ctx context.Context, name string, e *entry) {
	var once sync.Once
	tell := func(err error) { once.Do(func() { e.err = err; close(e.done) }) }
	defer tell(env.ErrNotRunning)
	var servers serving
	defer servers.wait()
	tries := 0
	for delay := firstRetry; ; delay = min(2*delay, maxRetry) {
		if keeper, _ := h.dirs.Process(name); keeper != e.keeper {
			return
		}
		conn, err := env.ServeMounts(ctx, h.dirs, name, mounts(), servers.alive(), func(i, fd int) { servers.add(ctx, h, i, fd) })
		switch {
		case ctx.Err() != nil || errors.Is(err, env.ErrNotRunning):
			return
		case err != nil:
			h.log.Warn("cannot show devices", "environment", name, "err", err)
			if tries++; tries == maxTries {
				tell(err)
				return
			}
		default:
			tell(nil)
			delay, tries = firstRetry, 0
			h.hold(ctx, conn)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
	}
}

// hold waits for the end of a connection on which nothing comes.
func (h *hub) hold(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	b := make([]byte, 1)
	_, _ = conn.Read(b) // however it ends
}

// serving are the servers of one environment's mounts.
type serving struct {
	mu      sync.Mutex // guards running
	running int
	wg      sync.WaitGroup
}

// alive says whether all mounts are served still.
func (s *serving) alive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running == len(mounts())
}

// wait waits until the mounts are gone, or for as long as a guest may keep one that
// was taken away.
func (s *serving) wait() {
	ended := make(chan struct{})
	go func() { s.wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(endTime):
	}
}

// add serves mount number i of mounts.
func (s *serving) add(ctx context.Context, h *hub, i, fd int) {
	serve := []func(context.Context, *hub, int) error{serveUSB, serveSysfs}[i]
	s.mu.Lock()
	s.running++
	s.mu.Unlock()
	s.wg.Go(func() {
		if err := serve(ctx, h, fd); err != nil {
			h.log.Warn("a mount of devices ended", "err", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running--
	})
}

func serveUSB(ctx context.Context, h *hub, fd int) error {
	fs := usbfs.New(h.host)
	defer fs.Close()
	server, err := fuse.New(fs, usbfs.Config())
	if err != nil {
		return err
	}
	// Who polls may have gone (ENOENT), or the mount.
	fs.NotifyBy(func(kh uint64) { _ = server.NotifyPoll(kh) })
	return server.Serve(ctx, fd)
}

func serveSysfs(ctx context.Context, h *hub, fd int) error {
	server, err := fuse.New(sysfs.New(h.host, true), fuse.Config{})
	if err != nil {
		return err
	}
	return server.Serve(ctx, fd)
}
