package volumetest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// setTimes sets access and modification times of a name.
func (t *T) setTimes(name string, atime, mtime unix.Timespec) {
	t.must("utimensat "+name, t.tryTimes(name, atime, mtime))
}

func (t *T) tryTimes(name string, atime, mtime unix.Timespec) error {
	return again(func() error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, t.path(name), []unix.Timespec{atime, mtime}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// stored is a time as the volume keeps it.
func (t *T) stored(ts unix.Timespec) time.Time {
	return time.Unix(ts.Unix()).Truncate(max(t.TimeGranularity, 1))
}

// recent reports whether a time is about now, by the server's clock.
func recent(ts unix.Timespec) bool {
	return time.Since(time.Unix(ts.Unix())).Abs() < time.Hour
}

var (
	now  = unix.Timespec{Nsec: unix.UTIME_NOW}
	omit = unix.Timespec{Nsec: unix.UTIME_OMIT}
)

var timeTests = map[string]func(*T){
	"TimesSet": func(t *T) {
		t.write("f", "x")
		t.mkdir("d")
		for _, name := range []string{"f", "d"} {
			for _, sec := range []int64{1, 86400 * 365, 1234567890, 1<<31 - 1, 1 << 31, 4102444800} {
				a, m := unix.Timespec{Sec: sec, Nsec: 123456789}, unix.Timespec{Sec: sec + 1, Nsec: 999999999}
				t.setTimes(name, a, m)
				st := t.stat(name)
				if got, want := time.Unix(st.Atim.Unix()), t.stored(a); !got.Equal(want) {
					t.Errorf("atime %v, want %v", got, want)
				}
				if got, want := time.Unix(st.Mtim.Unix()), t.stored(m); !got.Equal(want) {
					t.Errorf("mtime %v, want %v", got, want)
				}
			}
		}
	},
	"TimesBefore1970": func(t *T) {
		t.write("f", "x")
		ts := unix.Timespec{Sec: -1000}
		t.setTimes("f", ts, ts)
		if st := t.stat("f"); st.Mtim.Sec != -1000 || st.Atim.Sec != -1000 {
			t.Errorf("atime %d, mtime %d, want -1000", st.Atim.Sec, st.Mtim.Sec)
		}
	},
	"TimesNowOmit": func(t *T) {
		t.write("f", "x")
		old := unix.Timespec{Sec: 1000}
		t.setTimes("f", old, old)
		t.setTimes("f", now, omit)
		if st := t.stat("f"); !recent(st.Atim) || st.Mtim.Sec != 1000 {
			t.Errorf("UTIME_NOW, UTIME_OMIT: %v, %v", st.Atim, st.Mtim)
		}
		t.setTimes("f", old, old)
		t.setTimes("f", omit, now)
		if st := t.stat("f"); st.Atim.Sec != 1000 || !recent(st.Mtim) {
			t.Errorf("UTIME_OMIT, UTIME_NOW: %v, %v", st.Atim, st.Mtim)
		}
		t.setTimes("f", omit, omit)
		if st := t.stat("f"); st.Atim.Sec != 1000 {
			t.Errorf("UTIME_OMIT twice moved atime to %v", st.Atim)
		}
		t.must("utimensat NULL", again(func() error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, t.path("f"), nil, 0)
		}))
		if st := t.stat("f"); !recent(st.Atim) || !recent(st.Mtim) {
			t.Errorf("both now: %v, %v", st.Atim, st.Mtim)
		}
		t.fails("of nothing", t.tryTimes("none", old, old), unix.ENOENT)
	},
	// TimesKept: what cp -p and tar set on an open, just written file stays.
	"TimesKept": func(t *T) {
		f := t.create("f")
		t.writeAt(f, pattern(0, 100000), 0)
		times := []unix.Timespec{{Sec: 5000}, {Sec: 6000}}
		t.must("futimens", again(func() error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), times, 0)
		}))
		if st := t.fstat(f); st.Mtim.Sec != 6000 {
			t.Errorf("mtime %d before close, want 6000", st.Mtim.Sec)
		}
		t.check("close", f.Close())
		if st := t.stat("f"); st.Mtim.Sec != 6000 {
			t.Errorf("mtime %d after close, want 6000", st.Mtim.Sec)
		}
	},
	"TimesMove": func(t *T) {
		t.write("f", "content")
		f := t.open("f", os.O_RDWR)
		for what, change := range map[string]func() error{
			"write":    func() error { _, err := f.WriteAt([]byte("x"), 0); return err },
			"truncate": func() error { return f.Truncate(3) },
			"O_TRUNC": func() error {
				g, err := os.OpenFile(t.path("f"), os.O_WRONLY|os.O_TRUNC, 0)
				if err == nil {
					err = g.Close()
				}
				return err
			},
		} {
			t.setTimes("f", unix.Timespec{Sec: 1000}, unix.Timespec{Sec: 1000})
			t.must(what, change())
			t.must("fsync", f.Sync())
			if st := t.fstat(f); !recent(st.Mtim) || !recent(st.Ctim) {
				t.Errorf("after %s: mtime %v, ctime %v", what, st.Mtim, st.Ctim)
			}
		}
		t.setTimes("f", unix.Timespec{Sec: 1000}, unix.Timespec{Sec: 1000})
		t.rename("f", "g")
		if st := t.stat("g"); st.Mtim.Sec != 1000 {
			t.Errorf("a rename moved mtime to %v", st.Mtim)
		}
	},
	// TimesOrder: of two files written one after the other the second is not older (make).
	"TimesOrder": func(t *T) {
		for range 10 {
			t.write("source", "x")
			t.write("target", "y")
			a, b := t.stat("source").Mtim, t.stat("target").Mtim
			if time.Unix(b.Unix()).Before(time.Unix(a.Unix())) {
				t.Errorf("the second is older: %v, %v", a, b)
			}
			t.remove("source")
			t.remove("target")
		}
	},
	"TimesSymlink": func(t *T) {
		t.write("f", "x")
		t.must("symlink", os.Symlink("f", t.path("l")))
		t.setTimes("f", unix.Timespec{Sec: 1000}, unix.Timespec{Sec: 1000})
		t.setTimes("l", unix.Timespec{Sec: 2000}, unix.Timespec{Sec: 2000})
		if f, l := t.stat("f").Mtim.Sec, t.stat("l").Mtim.Sec; f != 1000 || l != 2000 {
			t.Errorf("mtime of the file %d, of the link %d; want 1000, 2000", f, l)
		}
	},
}

var attributeTests = map[string]func(*T){
	"Statfs": func(t *T) {
		t.write("f", "x")
		var a, b unix.Statfs_t
		t.must("statfs", again(func() error { return unix.Statfs(t.dir, &a) }))
		if a.Bsize <= 0 || a.Blocks == 0 || a.Bfree > a.Blocks || a.Bavail > a.Bfree || a.Namelen < 255 {
			t.Errorf("statfs: %+v", a)
		}
		f := t.open("f", os.O_RDONLY)
		t.must("fstatfs", again(func() error { return unix.Fstatfs(int(f.Fd()), &b) }))
		if a.Type != b.Type || a.Blocks != b.Blocks || a.Bsize != b.Bsize {
			t.Errorf("fstatfs %+v, statfs %+v", b, a)
		}
	},
	"InodeNumbers": func(t *T) {
		seen := map[uint64]string{}
		for _, name := range t.files(".", 100) {
			ino := t.stat(name).Ino
			if other, twice := seen[ino]; twice {
				t.Errorf("%s and %s are both inode %d", name, other, ino)
			}
			seen[ino] = name
		}
		f := t.open("file-00000", os.O_RDWR)
		ino := t.fstat(f).Ino
		t.writeAt(f, "x", 0)
		t.rename("file-00000", "renamed")
		if a, b := t.stat("renamed").Ino, t.fstat(f).Ino; a != ino || b != ino {
			t.Errorf("inode %d became %d, and %d by descriptor", ino, a, b)
		}
	},
	"Blocks": func(t *T) {
		f := t.create("f")
		t.writeAt(f, pattern(5, 1<<20), 0)
		t.must("fsync", f.Sync())
		if b := t.fstat(f).Blocks; b < 1<<20/512 || b > 4<<20/512 {
			t.Errorf("1 MiB has %d blocks", b)
		}
	},
	"Access": func(t *T) {
		t.write("f", "x")
		for _, mode := range []uint32{unix.F_OK, unix.R_OK, unix.W_OK, unix.R_OK | unix.W_OK} {
			t.check(fmt.Sprint("access ", mode), unix.Access(t.path("f"), mode))
		}
		t.check("access of the directory", unix.Access(t.dir, unix.R_OK|unix.W_OK|unix.X_OK))
		t.fails("of nothing", unix.Access(t.path("none"), unix.F_OK), unix.ENOENT)
		t.fails("below a file", unix.Access(t.path("f/x"), unix.F_OK), unix.ENOTDIR)
	},
	"Statx": func(t *T) {
		t.write("f", "seven b")
		var sx unix.Statx_t
		t.must("statx", again(func() error {
			return unix.Statx(unix.AT_FDCWD, t.path("f"), unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &sx)
		}))
		if sx.Size != 7 || sx.Mode&unix.S_IFMT != unix.S_IFREG || sx.Mask&unix.STATX_BASIC_STATS != unix.STATX_BASIC_STATS {
			t.Errorf("statx: size %d, mode %o, mask %x", sx.Size, sx.Mode, sx.Mask)
		}
	},
	"Xattr": func(t *T) {
		t.write("f", "x")
		t.mkdir("d")
		for _, name := range []string{"f", "d"} {
			p := t.path(name)
			t.must("setxattr", unix.Setxattr(p, "user.one", []byte("1"), unix.XATTR_CREATE))
			t.fails("XATTR_CREATE twice", unix.Setxattr(p, "user.one", nil, unix.XATTR_CREATE), unix.EEXIST)
			t.fails("XATTR_REPLACE of nothing", unix.Setxattr(p, "user.two", nil, unix.XATTR_REPLACE), unix.ENODATA)
			t.must("setxattr", unix.Setxattr(p, "user.two", []byte("\x00bytes\xff"), 0))
			t.must("setxattr", unix.Setxattr(p, "user.one", []byte("uno"), unix.XATTR_REPLACE))
			t.xattr(name, "user.one", "uno")
			t.xattr(name, "user.two", "\x00bytes\xff")
			if got := t.xattrs(name); !slices.Equal(got, []string{"user.one", "user.two"}) {
				t.Errorf("listxattr: %q", got)
			}
			_, err := unix.Getxattr(p, "user.one", make([]byte, 2))
			t.fails("getxattr into too little", err, unix.ERANGE)
			_, err = unix.Listxattr(p, make([]byte, 2))
			t.fails("listxattr into too little", err, unix.ERANGE)
			t.must("removexattr", unix.Removexattr(p, "user.one"))
			t.fails("removexattr of nothing", unix.Removexattr(p, "user.one"), unix.ENODATA)
			_, err = unix.Getxattr(p, "user.one", nil)
			t.fails("getxattr of nothing", err, unix.ENODATA)
			t.must("removexattr", unix.Removexattr(p, "user.two"))
			if got := t.xattrs(name); len(got) != 0 {
				t.Errorf("listxattr after all went: %q", got)
			}
		}
		_, err := unix.Getxattr(t.path("none"), "user.one", nil)
		t.fails("getxattr of no file", err, unix.ENOENT)
	},
	"XattrLarge": func(t *T) {
		t.write("f", "x")
		value := pattern(7, 3000)
		t.must("setxattr", unix.Setxattr(t.path("f"), "user.large", []byte(value), 0))
		t.xattr("f", "user.large", value)
		t.must("setxattr", unix.Setxattr(t.path("f"), "user.large", nil, 0))
		t.xattr("f", "user.large", "")
		long := "user." + strings.Repeat("n", 251)
		t.fails("a name of 256 bytes", unix.Setxattr(t.path("f"), long, nil, 0), unix.ERANGE, unix.EOPNOTSUPP)
	},
	"XattrMoves": func(t *T) {
		f := t.create("f")
		t.must("fsetxattr", unix.Fsetxattr(int(f.Fd()), "user.kept", []byte("v"), 0))
		t.rename("f", "g")
		t.xattr("g", "user.kept", "v")
		t.remove("g")
		p := make([]byte, 10)
		if n, err := unix.Fgetxattr(int(f.Fd()), "user.kept", p); err != nil || string(p[:n]) != "v" {
			t.Errorf("fgetxattr of an unlinked file: %q, %v", p[:max(n, 0)], err)
		}
	},
}

// xattr checks an attribute's value.
func (t *T) xattr(name, attr, want string) {
	p := make([]byte, 1<<16)
	size, err := unix.Getxattr(t.path(name), attr, nil)
	if err != nil || size != len(want) {
		t.Errorf("size of %s: %d, %v; want %d", attr, size, err, len(want))
	}
	n, err := unix.Getxattr(t.path(name), attr, p)
	t.same(attr, p[:max(n, 0)], []byte(want), err)
}

// xattrs is the names of a file's user attributes.
func (t *T) xattrs(name string) []string {
	p := make([]byte, 1<<16)
	n, err := unix.Listxattr(t.path(name), p)
	t.must("listxattr", err)
	var names []string
	for _, s := range strings.Split(string(p[:n]), "\x00") {
		if strings.HasPrefix(s, "user.") {
			names = append(names, s)
		}
	}
	slices.Sort(names)
	return names
}
