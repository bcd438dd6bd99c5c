package volumetest

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

var openTests = map[string]func(*T){
	"OpenExclusive": func(t *T) {
		t.create("f")
		_, err := t.tryOpen("f", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		t.fails("O_EXCL over a file", err, unix.EEXIST)
		t.mkdir("d")
		_, err = t.tryOpen("d", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		t.fails("O_EXCL over a directory", err, unix.EEXIST)
	},
	"OpenExclusiveRace": func(t *T) {
		for round := range 20 {
			name := fmt.Sprint("f", round)
			won := make(chan bool)
			for range 8 {
				go func() {
					f, err := os.OpenFile(t.path(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
					if err == nil {
						err = f.Close()
						t.check("close", err)
						won <- true
						return
					}
					t.fails("O_EXCL", err, unix.EEXIST)
					won <- false
				}()
			}
			winners := 0
			for range 8 {
				if <-won {
					winners++
				}
			}
			if winners != 1 {
				t.Errorf("%d made the same file with O_EXCL", winners)
			}
		}
	},
	"OpenTruncate": func(t *T) {
		t.write("f", "content")
		ino := t.stat("f").Ino
		f := t.open("f", os.O_WRONLY|os.O_TRUNC)
		t.has("f", "")
		t.writeAt(f, "new", 0)
		t.has("f", "new")
		f = t.open("f", os.O_RDWR|os.O_CREATE|os.O_TRUNC)
		if st := t.fstat(f); st.Size != 0 || st.Ino != ino {
			t.Errorf("O_CREAT|O_TRUNC: size %d, same inode %v", st.Size, st.Ino == ino)
		}
	},
	"OpenAppend": func(t *T) {
		t.write("f", "one")
		f := t.open("f", os.O_RDWR|os.O_APPEND)
		other := t.open("f", os.O_WRONLY)
		t.writeAt(other, "two", 3)
		_, err := f.Seek(0, io.SeekStart)
		t.must("seek", err)
		_, err = f.Write([]byte("three"))
		t.must("write", err)
		t.has("f", "onetwothree")
		if off, err := f.Seek(0, io.SeekCurrent); off != 11 || err != nil {
			t.Errorf("offset after appending: %d, %v", off, err)
		}
		// pwrite(2), BUGS: O_APPEND appends whatever the offset.
		t.must("pwrite", again(func() error { _, err := unix.Pwrite(int(f.Fd()), []byte("!"), 0); return err }))
		t.has("f", "onetwothree!")
		t.readsAt(f, 3, "two")
	},
	"OpenAccessMode": func(t *T) {
		t.write("f", "x")
		r, w := t.open("f", os.O_RDONLY), t.open("f", os.O_WRONLY)
		_, err := r.Write([]byte("y"))
		t.fails("write to O_RDONLY", err, unix.EBADF)
		_, err = w.Read(make([]byte, 1))
		t.fails("read from O_WRONLY", err, unix.EBADF)
	},
	"OpenDirectory": func(t *T) {
		t.mkdir("d")
		t.write("f", "x")
		_, err := t.tryOpen("f", os.O_RDONLY|unix.O_DIRECTORY, 0)
		t.fails("O_DIRECTORY on a file", err, unix.ENOTDIR)
		d := t.open("d", os.O_RDONLY|unix.O_DIRECTORY)
		_, err = d.Read(make([]byte, 10))
		t.fails("read of a directory", err, unix.EISDIR)
		_, err = t.tryOpen("d", os.O_WRONLY, 0)
		t.fails("O_WRONLY on a directory", err, unix.EISDIR)
		_, err = t.tryOpen("d", os.O_RDWR|os.O_CREATE, 0o644)
		t.fails("O_CREAT on a directory", err, unix.EISDIR)
		_, err = t.tryOpen("d", os.O_RDONLY|os.O_TRUNC, 0)
		t.fails("O_TRUNC on a directory", err, unix.EISDIR)
	},
	"OpenErrors": func(t *T) {
		t.write("f", "x")
		for name, want := range map[string]unix.Errno{
			"none": unix.ENOENT, "none/x": unix.ENOENT, "f/x": unix.ENOTDIR,
		} {
			_, err := t.tryOpen(name, os.O_RDONLY, 0)
			t.fails("open "+name, err, want)
			_, err = os.Lstat(t.path(name))
			t.fails("lstat "+name, err, want)
			t.fails("unlink "+name, unix.Unlink(t.path(name)), want)
			t.fails("rmdir "+name, unix.Rmdir(t.path(name)), want)
		}
		_, err := os.Open(t.path("f") + "/")
		t.fails("open f/", err, unix.ENOTDIR)
		_, err = os.Open(t.path("f") + "/.")
		t.fails("open f/.", err, unix.ENOTDIR)
		_, err = os.OpenFile(t.path("new")+"/", os.O_RDWR|os.O_CREATE, 0o644)
		t.fails("create new/", err, unix.EISDIR)
		_, err = t.tryOpen("none/new", os.O_RDWR|os.O_CREATE, 0o644)
		t.fails("create in nothing", err, unix.ENOENT)
	},
	"OpenPath": func(t *T) {
		t.write("f", "x")
		fd, err := unix.Open(t.path("f"), unix.O_PATH|unix.O_CLOEXEC, 0)
		t.must("O_PATH", err)
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Size != 1 {
			t.Errorf("fstat of O_PATH: size %d, %v", st.Size, err)
		}
		_, err = unix.Read(fd, make([]byte, 1))
		t.fails("read of O_PATH", err, unix.EBADF)
		t.rename("f", "g")
		f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
		t.must("open an O_PATH descriptor after a rename", err)
		t.readsAt(f, 0, "x")
		t.check("close", f.Close())
	},
	"OpenDirect": func(t *T) {
		f := t.open("f", os.O_RDWR|os.O_CREATE|unix.O_DIRECT)
		p := aligned(8192)
		copy(p, pattern(1, len(p)))
		_, err := f.WriteAt(p, 4096)
		t.must("write with O_DIRECT", err)
		q := aligned(8192)
		n, err := f.ReadAt(q, 4096)
		t.same("read with O_DIRECT", q[:n], p, err)
		t.has("f", strings.Repeat("\x00", 4096)+string(p))
		// What the page cache has must not be lost or stale.
		buffered := t.open("f", os.O_RDWR)
		t.writeAt(buffered, "buffered", 4096)
		n, err = f.ReadAt(q[:4096], 4096)
		t.same("O_DIRECT after a buffered write", q[:min(n, 8)], []byte("buffered"), err)
	},
	"OpenSync": func(t *T) {
		for _, flag := range []int{unix.O_SYNC, unix.O_DSYNC} {
			f := t.open("f", os.O_RDWR|os.O_CREATE|flag)
			t.writeAt(f, "durable", 0)
			t.check("close", f.Close())
			t.has("f", "durable")
		}
	},
	"OpenTmpfile": func(t *T) {
		f, err := t.tryOpen(".", os.O_RDWR|unix.O_TMPFILE, 0o600)
		t.must("O_TMPFILE", err)
		t.writeAt(f, "named late", 0)
		t.lists(".")
		t.must("linkat", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, t.path("f"), unix.AT_SYMLINK_FOLLOW))
		t.has("f", "named late")
	},
	"OpenMany": func(t *T) {
		var files []*os.File
		for i := range 1000 {
			f := t.create(fmt.Sprint(i))
			t.writeAt(f, fmt.Sprint(i), 0)
			files = append(files, f)
		}
		for i, f := range files {
			t.readsAt(f, 0, fmt.Sprint(i))
			t.check("close", f.Close())
		}
	},
	// CreateReadOnly: git and tar make files that they cannot open again, and
	// write them through the first descriptor.
	"CreateReadOnly": func(t *T) {
		f, err := t.tryOpen("f", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o444)
		t.must("create 0444", err)
		t.writeAt(f, "object", 0)
		t.check("fsync", f.Sync())
		t.check("close", f.Close())
		t.has("f", "object")
		t.rename("f", "g")
		t.remove("g")
	},
	"ReadFromOtherProcess": func(t *T) {
		f := t.create("f")
		p := t.start()
		fd := p.open("f", os.O_RDWR)
		t.writeAt(f, "from here", 0)
		if a := p.do(request{Op: "read", FD: fd, Len: 20}); a.Text != "from here" {
			t.Errorf("there: %q, errno %d", a.Text, a.Errno)
		}
		p.fails(0, request{Op: "write", FD: fd, Text: "there", Start: 5})
		t.readsAt(f, 0, "from there")
	},
}

// aligned is memory as O_DIRECT wants it.
func aligned(n int) []byte {
	p := make([]byte, n+4096)
	skip := 4096 - int(uintptr(unsafe.Pointer(&p[0]))%4096)
	return p[skip : skip+n : skip+n]
}

var unlinkTests = map[string]func(*T){
	"UnlinkOpen": func(t *T) {
		f := t.create("f")
		t.writeAt(f, "before", 0)
		t.remove("f")
		t.exists("f", false)
		t.readsAt(f, 0, "before")
		t.writeAt(f, "after, longer", 0)
		t.readsAt(f, 0, "after, longer")
		if st := t.fstat(f); st.Nlink != 0 || st.Size != 13 {
			t.Errorf("fstat: %d links, size %d; want 0, 13", st.Nlink, st.Size)
		}
		t.check("ftruncate", f.Truncate(5))
		t.readsAt(f, 0, "after")
		if st := t.fstat(f); st.Size != 5 {
			t.Errorf("size %d after ftruncate, want 5", st.Size)
		}
		t.check("fsync", f.Sync())
		t.check("close", f.Close())
		t.lists(".")
	},
	"UnlinkOpenReadOnly": func(t *T) {
		t.write("f", pattern(3, 300000))
		f := t.open("f", os.O_RDONLY)
		t.remove("f")
		t.readsAt(f, 0, pattern(3, 300000))
		t.check("close", f.Close())
	},
	"UnlinkOpenTwice": func(t *T) {
		a := t.create("f")
		b := t.open("f", os.O_RDWR)
		t.remove("f")
		t.writeAt(a, "shared", 0)
		t.readsAt(b, 0, "shared")
		t.check("close", a.Close())
		t.readsAt(b, 0, "shared")
		t.writeAt(b, "alone", 0)
		t.readsAt(b, 0, "aloned")
		t.check("close", b.Close())
		t.lists(".")
	},
	"UnlinkCreateSameName": func(t *T) {
		var files []*os.File
		for i := range 10 {
			f := t.create("f")
			t.writeAt(f, fmt.Sprint("generation ", i), 0)
			files = append(files, f)
			t.remove("f")
		}
		t.write("f", "last")
		for i, f := range files {
			t.readsAt(f, 0, fmt.Sprint("generation ", i))
			t.check("close", f.Close())
		}
		t.has("f", "last")
	},
	// UnlinkHidden: whatever a volume does to keep an open file, nobody sees it.
	"UnlinkHidden": func(t *T) {
		t.mkdir("d")
		a, b := t.create("d/a"), t.create("d/b")
		t.write("d/c", "stays")
		t.remove("d/a")
		t.rename("d/c", "d/b")
		t.lists("d", "b")
		t.check("close", a.Close())
		t.check("close", b.Close())
		t.lists("d", "b")
		t.remove("d/b")
	},
	"UnlinkRmdirParent": func(t *T) {
		t.mkdir("d")
		f := t.create("d/f")
		t.remove("d/f")
		t.check("rmdir with an unlinked open file", unix.Rmdir(t.path("d")))
		t.writeAt(f, "still", 0)
		t.readsAt(f, 0, "still")
		t.check("close", f.Close())
	},
	"UnlinkReopen": func(t *T) {
		f := t.create("f")
		t.writeAt(f, "again", 0)
		t.remove("f")
		g, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0)
		t.must("open through /proc", err)
		defer g.Close()
		t.check("close", f.Close())
		t.readsAt(g, 0, "again")
	},
	"UnlinkAttributes": func(t *T) {
		f := t.create("f")
		t.remove("f")
		times := []unix.Timespec{{Sec: 1000}, {Sec: 2000}}
		t.check("futimens", unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), times, 0))
		if st := t.fstat(f); st.Mtim.Sec != 2000 {
			t.Errorf("mtime %d, want 2000", st.Mtim.Sec)
		}
		t.check("fchmod", f.Chmod(0o600))
	},
	"UnlinkErrors": func(t *T) {
		t.mkdir("d")
		t.write("d/f", "x")
		t.fails("unlink of a directory", unix.Unlink(t.path("d")), unix.EISDIR)
		t.fails("unlink of d/f/", unix.Unlink(t.path("d/f")+"/"), unix.ENOTDIR)
		t.fails("rmdir of a file", unix.Rmdir(t.path("d/f")), unix.ENOTDIR)
		t.exists("d/f", true)
	},
}
