package volumetest

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// mode checks the permission bits of a name.
func (t *T) mode(name string, want uint32) {
	if got := t.stat(name).Mode & 0o7777; got != want {
		t.Errorf("%s has mode %o, want %o", name, got, want)
	}
}

func (t *T) chmod(name string, mode uint32) {
	t.must("chmod "+name, again(func() error { return unix.Chmod(t.path(name), mode) }))
}

// withUmask runs f with a umask; the suite runs one test at a time.
func withUmask(mask int, f func()) {
	old := unix.Umask(mask)
	defer unix.Umask(old)
	f()
}

// unprivileged runs f without CAP_FSETID. The thread gets it back and lives on:
// processes that it has started may be told to die with it.
func unprivileged(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	if err := unix.Capget(&hdr, &had[0]); err != nil {
		return err
	}
	less := had
	less[0].Effective &^= 1 << unix.CAP_FSETID
	if err := unix.Capset(&hdr, &less[0]); err != nil {
		return err
	}
	return errors.Join(f(), unix.Capset(&hdr, &had[0]))
}

// modeTests are for file systems that keep modes and owners. Where this process
// cannot become other users, what needs them is left out.
var modeTests = map[string]func(*T){
	"Chmod": func(t *T) {
		t.write("f", "x")
		t.mkdir("d")
		for _, mode := range []uint32{0o644, 0o600, 0o777, 0o400, 0, 0o4755, 0o1777, 0o755} {
			t.chmod("f", mode)
			t.mode("f", mode)
			t.chmod("d", mode|0o700)
			t.mode("d", mode|0o700)
		}
		f := t.open("f", os.O_RDWR)
		t.must("fchmod", unix.Fchmod(int(f.Fd()), 0o640))
		t.mode("f", 0o640)
		t.fails("of nothing", unix.Chmod(t.path("none"), 0o600), unix.ENOENT)
		if os.Symlink("f", t.path("l")) == nil {
			t.chmod("l", 0o604)
			t.mode("f", 0o604)
		}
	},
	"SetuidWrite": func(t *T) {
		f := t.create("f")
		t.chmod("f", 0o6755)
		t.must("a write", unprivileged(func() error { _, err := unix.Pwrite(int(f.Fd()), []byte("written"), 0); return err }))
		t.mode("f", 0o755)
		t.chmod("f", 0o6745)
		t.must("a truncation", unprivileged(func() error { return unix.Ftruncate(int(f.Fd()), 3) }))
		t.mode("f", 0o2745)
	},
	"ChmodOpen": func(t *T) {
		f := t.create("f")
		t.chmod("f", 0)
		t.writeAt(f, "still writable", 0)
		t.readsAt(f, 0, "still")
	},
	"Umask": func(t *T) {
		withUmask(0o027, func() {
			f, err := t.tryOpen("f", os.O_RDWR|os.O_CREATE, 0o666)
			t.must("create", err)
			t.check("close", f.Close())
			t.mode("f", 0o640)
			t.must("mkdir", unix.Mkdir(t.path("d"), 0o777))
			t.mode("d", 0o750)
			if unix.Mkfifo(t.path("p"), 0o666) == nil {
				t.mode("p", 0o640)
			}
		})
		withUmask(0, func() {
			t.must("mkdir", unix.Mkdir(t.path("open"), 0o1777))
			t.mode("open", 0o1777)
			_, err := t.tryOpen("all", os.O_RDWR|os.O_CREATE, 0o666)
			t.must("create", err)
			t.mode("all", 0o666)
		})
	},
	"Owner": func(t *T) {
		t.write("f", "x")
		t.mkdir("d")
		for _, name := range []string{"f", "d"} {
			if st := t.stat(name); int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid() {
				t.Errorf("%s belongs to %d:%d, want %d:%d", name, st.Uid, st.Gid, os.Geteuid(), os.Getegid())
			}
		}
		t.must("chown to oneself", os.Chown(t.path("f"), os.Geteuid(), os.Getegid()))
		t.must("chown of nothing", os.Chown(t.path("f"), -1, -1))
	},
	// Setgid: what is made in a set-group-id directory gets its group, and a
	// directory the bit too (inode(7)).
	"Setgid": func(t *T) {
		t.mkdir("d")
		t.chmod("d", 0o2775)
		t.mode("d", 0o2775)
		t.mkdir("d/e")
		if st := t.stat("d/e"); st.Mode&unix.S_ISGID == 0 || st.Gid != t.stat("d").Gid {
			t.Errorf("mode %o, group %d", st.Mode, st.Gid)
		}
		if _, ok := t.startAs(1001); !ok {
			return
		}
		t.must("chown", os.Chown(t.path("d"), -1, 1234))
		t.chmod("d", 0o2775)
		t.write("d/f", "x")
		if g := t.stat("d/f").Gid; g != 1234 {
			t.Errorf("group %d, want the directory's 1234", g)
		}
	},
	"ChownClearsSetuid": func(t *T) {
		t.write("f", "x")
		t.chmod("f", 0o6755)
		t.must("chown", os.Chown(t.path("f"), os.Geteuid(), os.Getegid()))
		t.mode("f", 0o755)
	},
	"Chown": func(t *T) {
		p, ok := t.startAs(1001)
		if !ok {
			return
		}
		t.write("f", "x")
		t.must("chown", os.Chown(t.path("f"), 1001, 1002))
		if st := t.stat("f"); st.Uid != 1001 || st.Gid != 1002 {
			t.Errorf("%d:%d, want 1001:1002", st.Uid, st.Gid)
		}
		t.must("group only", os.Chown(t.path("f"), -1, 1001))
		p.fails(0, request{Op: "chmod", Path: t.path("f"), Mode: 0o600})
		p.fails(unix.EPERM, request{Op: "chown", Path: t.path("f"), UID: 1002, GID: -1})
		t.must("symlink", os.Symlink("f", t.path("l")))
		t.must("lchown", os.Lchown(t.path("l"), 1002, 1002))
		if st := t.stat("f"); st.Uid != 1001 {
			t.Errorf("lchown changed the target's owner to %d", st.Uid)
		}
	},
	"Permission": func(t *T) {
		p, ok := t.startAs(1001)
		if !ok {
			return
		}
		t.write("f", "x")
		t.mkdir("d")
		t.write("d/f", "x")
		for mode, want := range map[uint32]struct{ r, w unix.Errno }{
			0o600: {unix.EACCES, unix.EACCES}, 0o604: {0, unix.EACCES}, 0o602: {unix.EACCES, 0}, 0o606: {0, 0},
		} {
			t.chmod("f", mode)
			p.fails(want.r, request{Op: "open", Path: t.path("f"), Flag: os.O_RDONLY})
			p.fails(want.w, request{Op: "open", Path: t.path("f"), Flag: os.O_WRONLY})
			p.fails(want.r, request{Op: "access", Path: t.path("f"), Mode: unix.R_OK})
			p.fails(want.w, request{Op: "access", Path: t.path("f"), Mode: unix.W_OK})
		}
		p.fails(unix.EACCES, request{Op: "access", Path: t.path("f"), Mode: unix.X_OK})
		p.fails(unix.EPERM, request{Op: "chmod", Path: t.path("f"), Mode: 0o777})
		p.fails(unix.EACCES, request{Op: "open", Path: t.path("d/new"), Flag: os.O_CREATE | os.O_WRONLY, Mode: 0o600})
		p.fails(unix.EACCES, request{Op: "mkdir", Path: t.path("d/new"), Mode: 0o700})
		p.fails(unix.EACCES, request{Op: "unlink", Path: t.path("d/f")})
		p.fails(unix.EACCES, request{Op: "rename", Path: t.path("d/f"), To: t.path("d/g")})
		t.chmod("d", 0o700)
		p.fails(unix.EACCES, request{Op: "stat", Path: t.path("d/f")})
		t.chmod("d", 0o701)
		p.fails(0, request{Op: "stat", Path: t.path("d/f")})
		p.fails(unix.EACCES, request{Op: "open", Path: t.path("d"), Flag: os.O_RDONLY})
		t.chmod("f", 0o604)
		p.fails(unix.EACCES, request{Op: "touch", Path: t.path("f")})
	},
	// Sticky: in such a directory only the owner of a name, or of the
	// directory, removes or renames it.
	"Sticky": func(t *T) {
		p, ok := t.startAs(1001)
		q, ok2 := t.startAs(1002)
		if !ok || !ok2 {
			return
		}
		t.mkdir("tmp")
		t.chmod("tmp", 0o1777)
		for _, name := range []string{"a", "b", "c"} {
			p.fails(0, request{Op: "open", Path: t.path("tmp", name), Flag: os.O_CREATE | os.O_RDWR, Mode: 0o666})
		}
		q.fails(0, request{Op: "open", Path: t.path("tmp/q"), Flag: os.O_CREATE | os.O_RDWR, Mode: 0o666})
		q.fails(unix.EPERM, request{Op: "unlink", Path: t.path("tmp/a")})
		q.fails(unix.EPERM, request{Op: "rename", Path: t.path("tmp/a"), To: t.path("tmp/x")})
		q.fails(unix.EPERM, request{Op: "rename", Path: t.path("tmp/q"), To: t.path("tmp/a")})
		p.fails(0, request{Op: "rename", Path: t.path("tmp/a"), To: t.path("tmp/x")})
		p.fails(0, request{Op: "unlink", Path: t.path("tmp/x")})
		t.chmod("tmp", 0o777)
		q.fails(0, request{Op: "unlink", Path: t.path("tmp/b")})
	},
	// WriteClearsSetuid: a write by another than root takes set-id bits away.
	"WriteClearsSetuid": func(t *T) {
		p, ok := t.startAs(1001)
		if !ok {
			return
		}
		t.write("f", "x")
		t.chmod("f", 0o6777)
		fd := p.open("f", os.O_WRONLY)
		p.fails(0, request{Op: "write", FD: fd, Text: "y"})
		t.mode("f", 0o777)
	},
	"AccessMode": func(t *T) {
		t.write("f", "x")
		t.chmod("f", 0o600)
		t.fails("X_OK without an x bit", unix.Access(t.path("f"), unix.X_OK), unix.EACCES)
		t.chmod("f", 0o700)
		t.check("X_OK", unix.Access(t.path("f"), unix.X_OK))
		if os.Geteuid() != 0 {
			t.chmod("f", 0o400)
			t.fails("W_OK of a read-only file", unix.Access(t.path("f"), unix.W_OK), unix.EACCES)
			_, err := t.tryOpen("f", os.O_WRONLY, 0)
			t.fails("O_WRONLY of a read-only file", err, unix.EACCES)
			t.mkdir("d")
			t.chmod("d", 0o500)
			_, err = t.tryOpen("d/f", os.O_RDWR|os.O_CREATE, 0o600)
			t.fails("create in a read-only directory", err, unix.EACCES)
			t.chmod("d", 0o700)
		}
	},
	// ChangeTime moves with each change of attributes.
	"ChangeTime": func(t *T) {
		t.write("f", "x")
		for i, change := range []func() error{
			func() error { return unix.Chmod(t.path("f"), 0o640) },
			func() error { return os.Link(t.path("f"), t.path(fmt.Sprint("g", t.stat("f").Nlink))) },
			func() error { return t.tryRename("f", "f2") },
		} {
			before := t.stat("f").Ctim
			name := "f"
			for same := true; same; { // until the clock has moved on
				t.must("change", change())
				if i == 2 {
					name = "f2"
				}
				same = t.stat(name).Ctim == before
				if same && i == 2 {
					t.rename("f2", "f")
				}
			}
		}
	},
}
