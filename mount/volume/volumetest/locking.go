package volumetest

import (
	"os"

	"golang.org/x/sys/unix"
)

// flk is a lock of bytes; n 0 reaches to the end of the file.
func flk(typ int16, start, n int64) unix.Flock_t {
	return unix.Flock_t{Type: typ, Start: start, Len: n}
}

// fcntl sets or asks for a lock here.
func (t *T) fcntl(f *os.File, cmd int, lk unix.Flock_t) (unix.Flock_t, error) {
	err := again(func() error { return unix.FcntlFlock(f.Fd(), cmd, &lk) })
	return lk, err
}

func (t *T) lock(f *os.File, cmd int, lk unix.Flock_t) {
	_, err := t.fcntl(f, cmd, lk)
	t.must("lock", err)
}

func (t *T) flock(f *os.File, how int) error {
	return again(func() error { return unix.Flock(int(f.Fd()), how) })
}

// waits checks that a call begun elsewhere is not answered until release has run.
func (t *T) waits(c <-chan reply, release func()) {
	select {
	case a := <-c:
		t.Errorf("a lock that another holds was not waited for: %v", a.Errno)
		return
	default:
	}
	release()
	if a := <-c; a.Errno != 0 {
		t.Errorf("after the wait: %v", a.Errno)
	}
}

// set is a request to lock with fcntl.
func set(fd, cmd int, lk unix.Flock_t) request {
	return request{Op: "fcntl", FD: fd, Flag: cmd, Lock: lk}
}

var lockTests = map[string]func(*T){
	"LockPosix": func(t *T) {
		f := t.create("f")
		p := t.start()
		fd := p.open("f", os.O_RDWR)
		t.lock(f, unix.F_SETLK, flk(unix.F_WRLCK, 10, 10))
		for _, lk := range []unix.Flock_t{flk(unix.F_WRLCK, 0, 0), flk(unix.F_RDLCK, 19, 1), flk(unix.F_RDLCK, 0, 11)} {
			p.fails(unix.EAGAIN, set(fd, unix.F_SETLK, lk))
		}
		p.fails(0, set(fd, unix.F_SETLK, flk(unix.F_WRLCK, 0, 10)))
		p.fails(0, set(fd, unix.F_SETLK, flk(unix.F_WRLCK, 20, 0)))
		a := p.fails(0, set(fd, unix.F_GETLK, flk(unix.F_RDLCK, 0, 0)))
		if a.Lock.Type != unix.F_WRLCK || a.Lock.Start != 10 || a.Lock.Len != 10 || int(a.Lock.Pid) != os.Getpid() {
			t.Errorf("F_GETLK: %+v, want 10 bytes from 10 of %d", a.Lock, os.Getpid())
		}
		_, err := t.fcntl(f, unix.F_SETLK, flk(unix.F_RDLCK, 5, 1))
		t.fails("what the other holds", err, unix.EAGAIN)
	},
	"LockPosixShared": func(t *T) {
		f := t.create("f")
		p := t.start()
		fd := p.open("f", os.O_RDWR)
		t.lock(f, unix.F_SETLK, flk(unix.F_RDLCK, 0, 100))
		p.fails(0, set(fd, unix.F_SETLK, flk(unix.F_RDLCK, 50, 100)))
		p.fails(unix.EAGAIN, set(fd, unix.F_SETLK, flk(unix.F_WRLCK, 50, 100)))
		t.lock(f, unix.F_SETLK, flk(unix.F_UNLCK, 0, 0))
		p.fails(0, set(fd, unix.F_SETLK, flk(unix.F_WRLCK, 50, 100)))
	},
	// LockPosixSplit: unlocking the middle leaves both ends.
	"LockPosixSplit": func(t *T) {
		f := t.create("f")
		p := t.start()
		fd := p.open("f", os.O_RDWR)
		t.lock(f, unix.F_SETLK, flk(unix.F_WRLCK, 0, 100))
		t.lock(f, unix.F_SETLK, flk(unix.F_UNLCK, 40, 20))
		p.fails(unix.EAGAIN, set(fd, unix.F_SETLK, flk(unix.F_WRLCK, 39, 1)))
		p.fails(0, set(fd, unix.F_SETLK, flk(unix.F_WRLCK, 40, 20)))
		p.fails(unix.EAGAIN, set(fd, unix.F_SETLK, flk(unix.F_WRLCK, 60, 1)))
		a := p.fails(0, set(fd, unix.F_GETLK, flk(unix.F_WRLCK, 60, 0)))
		if a.Lock.Start != 60 || a.Lock.Len != 40 {
			t.Errorf("F_GETLK: %+v", a.Lock)
		}
	},
	"LockPosixWait": func(t *T) {
		f := t.create("f")
		p := t.start()
		fd := p.open("f", os.O_RDWR)
		t.lock(f, unix.F_SETLK, flk(unix.F_WRLCK, 0, 10))
		c := p.begin(set(fd, unix.F_SETLKW, flk(unix.F_WRLCK, 5, 10)))
		t.waits(c, func() { t.lock(f, unix.F_SETLK, flk(unix.F_UNLCK, 0, 10)) })
		_, err := t.fcntl(f, unix.F_SETLK, flk(unix.F_RDLCK, 5, 1))
		t.fails("what the other waited for", err, unix.EAGAIN)
	},
	// LockPosixClose: closing any descriptor of the file drops the process's locks.
	"LockPosixClose": func(t *T) {
		t.write("f", "x")
		p := t.start()
		a, b := p.open("f", os.O_RDWR), p.open("f", os.O_RDWR)
		p.fails(0, set(a, unix.F_SETLK, flk(unix.F_WRLCK, 0, 0)))
		f := t.open("f", os.O_RDWR)
		_, err := t.fcntl(f, unix.F_SETLK, flk(unix.F_WRLCK, 0, 0))
		t.fails("while it is held", err, unix.EAGAIN)
		p.fails(0, request{Op: "close", FD: b})
		t.lock(f, unix.F_SETLK, flk(unix.F_WRLCK, 0, 0))
	},
	"LockPosixDeath": func(t *T) {
		f := t.create("f")
		p := t.start()
		fd := p.open("f", os.O_RDWR)
		p.fails(0, set(fd, unix.F_SETLK, flk(unix.F_WRLCK, 0, 0)))
		p.stop()
		_, err := t.fcntl(f, unix.F_SETLKW, flk(unix.F_WRLCK, 0, 0))
		t.check("after the holder was killed", err)
	},
	// LockPosixWaiterDeath: one that is killed while it waits leaves nothing.
	"LockPosixWaiterDeath": func(t *T) {
		f := t.create("f")
		p, q := t.start(), t.start()
		fd, fd2 := p.open("f", os.O_RDWR), q.open("f", os.O_RDWR)
		t.lock(f, unix.F_SETLK, flk(unix.F_WRLCK, 0, 0))
		c := p.begin(set(fd, unix.F_SETLKW, flk(unix.F_WRLCK, 0, 0)))
		p.stop()
		<-c
		t.lock(f, unix.F_SETLK, flk(unix.F_UNLCK, 0, 0))
		q.fails(0, set(fd2, unix.F_SETLKW, flk(unix.F_WRLCK, 0, 0)))
	},
	"LockPosixDeadlock": func(t *T) {
		t.write("f", "")
		p, q := t.start(), t.start()
		fd, fd2 := p.open("f", os.O_RDWR), q.open("f", os.O_RDWR)
		p.fails(0, set(fd, unix.F_SETLK, flk(unix.F_WRLCK, 0, 1)))
		q.fails(0, set(fd2, unix.F_SETLK, flk(unix.F_WRLCK, 1, 1)))
		c := p.begin(set(fd, unix.F_SETLKW, flk(unix.F_WRLCK, 1, 1)))
		d := q.begin(set(fd2, unix.F_SETLKW, flk(unix.F_WRLCK, 0, 1)))
		// Whoever closes the circle is told; once it lets go the other goes on.
		var told reply
		select {
		case told = <-c:
			p.fails(0, set(fd, unix.F_SETLK, flk(unix.F_UNLCK, 0, 0)))
			c = d
		case told = <-d:
			q.fails(0, set(fd2, unix.F_SETLK, flk(unix.F_UNLCK, 0, 0)))
		}
		if told.Errno != unix.EDEADLK {
			t.Errorf("the circle: %v, want EDEADLK", told.Errno)
		}
		if a := <-c; a.Errno != 0 {
			t.Errorf("the other: %v", a.Errno)
		}
	},
	"LockPosixErrors": func(t *T) {
		t.write("f", "x")
		r, w := t.open("f", os.O_RDONLY), t.open("f", os.O_WRONLY)
		_, err := t.fcntl(r, unix.F_SETLK, flk(unix.F_WRLCK, 0, 0))
		t.fails("write lock through O_RDONLY", err, unix.EBADF)
		_, err = t.fcntl(w, unix.F_SETLK, flk(unix.F_RDLCK, 0, 0))
		t.fails("read lock through O_WRONLY", err, unix.EBADF)
		_, err = t.fcntl(r, unix.F_SETLK, flk(unix.F_RDLCK, -1, 1))
		t.fails("before the start", err, unix.EINVAL)
	},
	"LockPosixUnlinked": func(t *T) {
		f := t.create("f")
		p := t.start()
		fd := p.open("f", os.O_RDWR)
		t.remove("f")
		t.lock(f, unix.F_SETLK, flk(unix.F_WRLCK, 0, 0))
		p.fails(unix.EAGAIN, set(fd, unix.F_SETLK, flk(unix.F_WRLCK, 0, 0)))
		t.check("close", f.Close())
		p.fails(0, set(fd, unix.F_SETLKW, flk(unix.F_WRLCK, 0, 0)))
	},
	// LockOFD: locks of open files, between descriptors of one process.
	"LockOFD": func(t *T) {
		a := t.create("f")
		b := t.open("f", os.O_RDWR)
		t.lock(a, unix.F_OFD_SETLK, flk(unix.F_WRLCK, 0, 10))
		_, err := t.fcntl(b, unix.F_OFD_SETLK, flk(unix.F_WRLCK, 5, 1))
		t.fails("the other's bytes", err, unix.EAGAIN)
		t.lock(b, unix.F_OFD_SETLK, flk(unix.F_WRLCK, 10, 1))
		lk, err := t.fcntl(b, unix.F_OFD_GETLK, flk(unix.F_WRLCK, 0, 1))
		if err != nil || lk.Type != unix.F_WRLCK || lk.Start != 0 || lk.Len != 10 {
			t.Errorf("F_OFD_GETLK: %+v, %v", lk, err)
		}
		// They conflict with those of processes, and outlive other descriptors.
		_, err = t.fcntl(b, unix.F_SETLK, flk(unix.F_WRLCK, 0, 1))
		t.fails("a lock of the process", err, unix.EAGAIN)
		c := t.open("f", os.O_RDWR)
		t.check("close", c.Close())
		_, err = t.fcntl(b, unix.F_OFD_SETLK, flk(unix.F_WRLCK, 0, 1))
		t.fails("after another descriptor was closed", err, unix.EAGAIN)
	},
	"LockOFDClose": func(t *T) {
		a := t.create("f")
		b := t.open("f", os.O_RDWR)
		t.lock(a, unix.F_OFD_SETLK, flk(unix.F_WRLCK, 0, 0))
		t.check("close", a.Close())
		_, err := t.fcntl(b, unix.F_OFD_SETLKW, flk(unix.F_WRLCK, 0, 0))
		t.check("after the holder was closed", err)
	},
	"LockOFDWait": func(t *T) {
		f := t.create("f")
		p := t.start()
		fd := p.open("f", os.O_RDWR)
		t.lock(f, unix.F_OFD_SETLK, flk(unix.F_WRLCK, 0, 0))
		c := p.begin(set(fd, unix.F_OFD_SETLKW, flk(unix.F_RDLCK, 7, 1)))
		t.waits(c, func() { t.lock(f, unix.F_OFD_SETLK, flk(unix.F_UNLCK, 0, 0)) })
	},
	"LockFlock": func(t *T) {
		a := t.create("f")
		b := t.open("f", os.O_RDONLY)
		t.must("exclusive", t.flock(a, unix.LOCK_EX))
		t.fails("another exclusive", t.flock(b, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
		t.fails("another shared", t.flock(b, unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
		t.must("down to shared", t.flock(a, unix.LOCK_SH))
		t.must("another shared", t.flock(b, unix.LOCK_SH|unix.LOCK_NB))
		t.fails("up again", t.flock(a, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
		t.must("unlock", t.flock(b, unix.LOCK_UN))
		t.must("exclusive", t.flock(a, unix.LOCK_EX|unix.LOCK_NB))
		// A duplicate is the same open file.
		fd, err := unix.Dup(int(a.Fd()))
		t.must("dup", err)
		t.must("through the duplicate", unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB))
		t.check("close", a.Close())
		t.fails("while the duplicate is open", t.flock(b, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
		t.check("close", unix.Close(fd))
		t.check("after the last close", t.flock(b, unix.LOCK_EX))
	},
	"LockFlockWait": func(t *T) {
		f := t.create("f")
		p := t.start()
		fd := p.open("f", os.O_RDWR)
		t.must("exclusive", t.flock(f, unix.LOCK_EX))
		c := p.begin(request{Op: "flock", FD: fd, Flag: unix.LOCK_EX})
		t.waits(c, func() { t.must("unlock", t.flock(f, unix.LOCK_UN)) })
		t.fails("what the other has now", t.flock(f, unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
		p.stop()
		t.check("after it was killed", t.flock(f, unix.LOCK_EX))
	},
	// LockKinds: flock and fcntl do not see each other (flock(2), NOTES).
	"LockKinds": func(t *T) {
		f := t.create("f")
		p := t.start()
		fd := p.open("f", os.O_RDWR)
		t.must("flock", t.flock(f, unix.LOCK_EX))
		p.fails(0, set(fd, unix.F_SETLK, flk(unix.F_WRLCK, 0, 0)))
		p.fails(unix.EWOULDBLOCK, request{Op: "flock", FD: fd, Flag: unix.LOCK_SH | unix.LOCK_NB})
	},
}
