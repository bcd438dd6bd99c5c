package volumetest

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

var linkTests = map[string]func(*T){
	"HardLink": func(t *T) {
		t.write("a", "shared")
		t.must("link", os.Link(t.path("a"), t.path("b")))
		a, b := t.stat("a"), t.stat("b")
		if a.Ino != b.Ino || a.Nlink != 2 || b.Nlink != 2 {
			t.Errorf("inodes %d and %d, links %d and %d", a.Ino, b.Ino, a.Nlink, b.Nlink)
		}
		f := t.open("a", os.O_RDWR)
		t.writeAt(f, "S", 0)
		t.has("b", "Shared")
		t.remove("a")
		if b = t.stat("b"); b.Nlink != 1 {
			t.Errorf("%d links after one went, want 1", b.Nlink)
		}
		t.writeAt(f, "B", 0)
		t.check("close", f.Close())
		t.has("b", "Bhared")
	},
	"HardLinkErrors": func(t *T) {
		t.write("a", "x")
		t.write("b", "y")
		t.mkdir("d")
		t.fails("over a name", os.Link(t.path("a"), t.path("b")), unix.EEXIST)
		t.fails("over a directory", os.Link(t.path("a"), t.path("d")), unix.EEXIST)
		t.fails("of nothing", os.Link(t.path("none"), t.path("c")), unix.ENOENT)
		t.fails("of a directory", os.Link(t.path("d"), t.path("c")), unix.EPERM)
		t.has("b", "y")
	},
	"HardLinkOpen": func(t *T) {
		f := t.create("a")
		t.must("link", os.Link(t.path("a"), t.path("b")))
		t.remove("a")
		t.remove("b")
		if st := t.fstat(f); st.Nlink != 0 {
			t.Errorf("%d links, want 0", st.Nlink)
		}
		t.writeAt(f, "held", 0)
		t.readsAt(f, 0, "held")
	},
	"HardLinkOfSymlink": func(t *T) {
		t.must("symlink", os.Symlink("nowhere", t.path("l")))
		t.must("link", os.Link(t.path("l"), t.path("m")))
		if got, err := os.Readlink(t.path("m")); got != "nowhere" || err != nil {
			t.Errorf("readlink: %q, %v", got, err)
		}
	},
	"Symlink": func(t *T) {
		t.mkdir("d")
		t.write("d/f", "found")
		for link, target := range map[string]string{"rel": "d/f", "abs": t.path("d/f"), "d/up": "../d/f", "dir": "d"} {
			t.must("symlink", os.Symlink(target, t.path(link)))
			if got, err := os.Readlink(t.path(link)); got != target || err != nil {
				t.Errorf("readlink %s: %q, %v", link, got, err)
			}
			st := t.stat(link)
			if st.Mode&unix.S_IFMT != unix.S_IFLNK || st.Size != int64(len(target)) {
				t.Errorf("lstat %s: mode %o, size %d, want %d", link, st.Mode, st.Size, len(target))
			}
		}
		for _, name := range []string{"rel", "abs", "d/up", "dir/f"} {
			t.has(name, "found")
		}
		t.fails("over a name", os.Symlink("x", t.path("rel")), unix.EEXIST)
		t.fails("rmdir of a link to a directory", unix.Rmdir(t.path("dir")), unix.ENOTDIR)
		t.remove("dir")
		t.remove("rel")
		t.has("d/f", "found")
		_, err := os.Readlink(t.path("d/f"))
		t.fails("readlink of a file", err, unix.EINVAL)
	},
	"SymlinkNoFollow": func(t *T) {
		t.write("f", "x")
		t.must("symlink", os.Symlink("f", t.path("l")))
		_, err := t.tryOpen("l", os.O_RDONLY|unix.O_NOFOLLOW, 0)
		t.fails("O_NOFOLLOW", err, unix.ELOOP)
		_, err = t.tryOpen("l", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		t.fails("O_EXCL over a link", err, unix.EEXIST)
		fd, err := unix.Open(t.path("l"), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		t.must("O_PATH|O_NOFOLLOW", err)
		defer unix.Close(fd)
		p := make([]byte, 10)
		n, err := unix.Readlinkat(fd, "", p)
		if err != nil || string(p[:n]) != "f" {
			t.Errorf("readlinkat: %q, %v", p[:max(n, 0)], err)
		}
		p = make([]byte, 1)
		t.must("symlink", os.Symlink("long", t.path("m")))
		if n, err := unix.Readlink(t.path("m"), p); n != 1 || p[0] != 'l' || err != nil {
			t.Errorf("readlink into one byte: %q, %v", p[:max(n, 0)], err)
		}
	},
	"SymlinkDangling": func(t *T) {
		t.must("symlink", os.Symlink("later", t.path("l")))
		_, err := os.Stat(t.path("l"))
		t.fails("stat", err, unix.ENOENT)
		_, err = t.tryOpen("l", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		t.fails("O_EXCL", err, unix.EEXIST)
		f := t.open("l", os.O_RDWR|os.O_CREATE)
		t.writeAt(f, "now", 0)
		t.has("later", "now")
	},
	"SymlinkLoop": func(t *T) {
		t.must("symlink", os.Symlink("b", t.path("a")))
		t.must("symlink", os.Symlink("a", t.path("b")))
		t.must("symlink", os.Symlink("self", t.path("self")))
		for _, name := range []string{"a", "b", "self", "self/x"} {
			_, err := os.Stat(t.path(name))
			t.fails("stat "+name, err, unix.ELOOP)
		}
		t.remove("self")
	},
	"SymlinkLong": func(t *T) {
		for _, n := range []int{59, 60, 255, 1000, 4000} {
			target := strings.Repeat("0123456789", n/10+1)[:n]
			t.must("symlink", os.Symlink(target, t.path("l")))
			if got, err := os.Readlink(t.path("l")); got != target || err != nil {
				t.Errorf("a target of %d bytes came back with %d: %v", n, len(got), err)
			}
			t.remove("l")
		}
		t.fails("4096 bytes", os.Symlink(strings.Repeat("x", 4096), t.path("l")), unix.ENAMETOOLONG)
	},
	"SymlinkOdd": func(t *T) {
		for _, target := range []string{"with space", "ünï/cödé", `back\slash`, "..", "/", "a//b/./c/", "trailing/", "*?:|<>\""} {
			t.must("symlink", os.Symlink(target, t.path("l")))
			if got, err := os.Readlink(t.path("l")); got != target || err != nil {
				t.Errorf("readlink: %q, %v; want %q", got, err, target)
			}
			t.remove("l")
		}
	},
	"Mknod": func(t *T) {
		t.must("mkfifo", unix.Mkfifo(t.path("fifo"), 0o600))
		if st := t.stat("fifo"); st.Mode&unix.S_IFMT != unix.S_IFIFO {
			t.Errorf("a fifo has mode %o", st.Mode)
		}
		r, err := unix.Open(t.path("fifo"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		t.must("open fifo", err)
		defer unix.Close(r)
		w, err := unix.Open(t.path("fifo"), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		t.must("open fifo", err)
		defer unix.Close(w)
		p := make([]byte, 10)
		if _, err := unix.Write(w, []byte("through")); err != nil {
			t.Errorf("write: %v", err)
		}
		if n, err := unix.Read(r, p); err != nil || string(p[:n]) != "through" {
			t.Errorf("read: %q, %v", p[:max(n, 0)], err)
		}
		t.fails("over a name", unix.Mkfifo(t.path("fifo"), 0o600), unix.EEXIST)
		t.must("mknod of a file", unix.Mknod(t.path("f"), unix.S_IFREG|0o600, 0))
		t.has("f", "")
	},
	"Socket": func(t *T) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		t.must("socket", err)
		defer unix.Close(fd)
		dir, err := unix.Open(t.dir, unix.O_PATH|unix.O_CLOEXEC, 0)
		t.must("open", err)
		defer unix.Close(dir)
		t.must("bind", unix.Bind(fd, &unix.SockaddrUnix{Name: t.short(dir, "s")}))
		if st := t.stat("s"); st.Mode&unix.S_IFMT != unix.S_IFSOCK {
			t.Errorf("a socket has mode %o", st.Mode)
		}
		t.must("listen", unix.Listen(fd, 1))
		c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		t.must("socket", err)
		defer unix.Close(c)
		t.check("connect", unix.Connect(c, &unix.SockaddrUnix{Name: t.short(dir, "s")}))
	},
}
