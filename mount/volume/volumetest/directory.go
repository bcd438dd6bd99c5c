package volumetest

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// short is a path short enough for a socket's address.
func (t *T) short(dir int, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, name) }

// dirent is an entry as getdents64(2) tells it.
type dirent struct {
	ino  uint64
	off  int64
	typ  byte
	name string
}

// getdents reads some entries; none at the end.
func getdents(fd, size int) ([]dirent, error) {
	buf := make([]byte, size)
	n := 0
	err := again(func() (err error) { n, err = unix.Getdents(fd, buf); return err })
	if err != nil {
		return nil, err
	}
	var entries []dirent
	for buf = buf[:n]; len(buf) > 0; {
		size := binary.NativeEndian.Uint16(buf[16:])
		name, _, _ := strings.Cut(string(buf[19:size]), "\x00")
		entries = append(entries, dirent{
			binary.NativeEndian.Uint64(buf), int64(binary.NativeEndian.Uint64(buf[8:])), buf[18], name,
		})
		buf = buf[size:]
	}
	return entries, nil
}

// scan reads a directory to its end.
func (t *T) scan(fd, size int) []dirent {
	var all []dirent
	for {
		entries, err := getdents(fd, size)
		t.must("getdents", err)
		if len(entries) == 0 {
			return all
		}
		all = append(all, entries...)
	}
}

// files makes n files and answers their names.
func (t *T) files(dir string, n int) []string {
	var names []string
	for i := range n {
		name := fmt.Sprintf("file-%05d", i)
		f, err := os.OpenFile(t.path(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		t.must("create", err)
		t.must("close", f.Close())
		names = append(names, name)
	}
	return names
}

func rewind(fd int, off int64) error {
	return again(func() error { _, err := unix.Seek(fd, off, io.SeekStart); return err })
}

var directoryTests = map[string]func(*T){
	"Mkdir": func(t *T) {
		t.mkdir("d")
		if st := t.stat("d"); st.Mode&unix.S_IFMT != unix.S_IFDIR {
			t.Errorf("mode %o", st.Mode)
		}
		t.lists("d")
		t.fails("mkdir over a directory", unix.Mkdir(t.path("d"), 0o755), unix.EEXIST)
		t.write("f", "x")
		t.fails("mkdir over a file", unix.Mkdir(t.path("f"), 0o755), unix.EEXIST)
		t.fails("mkdir below a file", unix.Mkdir(t.path("f/d"), 0o755), unix.ENOTDIR)
		t.fails("mkdir below nothing", unix.Mkdir(t.path("none/d"), 0o755), unix.ENOENT)
		t.fails("mkdir of .", unix.Mkdir(t.path("d")+"/.", 0o755), unix.EEXIST)
		t.must("mkdir e/", unix.Mkdir(t.path("e")+"/", 0o755))
		t.must("rmdir e/", unix.Rmdir(t.path("e")+"/"))
		t.fails("rmdir of .", unix.Rmdir(t.path("d")+"/."), unix.EINVAL)
		t.fails("rmdir of ..", unix.Rmdir(t.path("d")+"/.."), unix.ENOTEMPTY, unix.EBUSY)
		t.write("d/f", "x")
		t.fails("rmdir of a full directory", unix.Rmdir(t.path("d")), unix.ENOTEMPTY)
		t.remove("d/f")
		t.must("rmdir", unix.Rmdir(t.path("d")))
		t.exists("d", false)
	},
	"DirectoryDeep": func(t *T) {
		name := "d"
		for range 50 {
			t.mkdir(name)
			name += "/d"
		}
		t.write(name, "deep")
		t.has(name, "deep")
		var here, up unix.Stat_t
		t.must("stat", unix.Stat(t.dir, &here))
		t.must("stat", unix.Stat(t.path("d/d")+"/../..", &up))
		if here.Ino != up.Ino {
			t.Errorf("d/d/../.. is inode %d, want %d", up.Ino, here.Ino)
		}
	},
	// DirectoryLinks: 2 and one for each subdirectory, as find(1) counts on.
	"DirectoryLinks": func(t *T) {
		t.mkdir("d")
		for i, want := range []uint64{2, 3, 4} {
			if got := uint64(t.stat("d").Nlink); got != want {
				t.Errorf("%d links with %d subdirectories, want %d", got, i, want)
			}
			t.mkdir(fmt.Sprint("d/", i))
		}
		t.must("rmdir", unix.Rmdir(t.path("d/0")))
		t.rename("d/1", "moved")
		if got := t.stat("d").Nlink; got != 3 {
			t.Errorf("%d links after one went and one moved out, want 3", got)
		}
	},
	"ReaddirDots": func(t *T) {
		d := t.open(".", os.O_RDONLY)
		found := map[string]dirent{}
		for _, e := range t.scan(int(d.Fd()), 4096) {
			found[e.name] = e
		}
		for _, name := range []string{".", ".."} {
			if e, ok := found[name]; !ok || e.typ != unix.DT_DIR {
				t.Errorf("%q: listed %v, type %d", name, ok, e.typ)
			}
		}
		if ino := t.fstat(d).Ino; found["."].ino != ino {
			t.Errorf(". is listed as inode %d, want %d", found["."].ino, ino)
		}
	},
	"ReaddirTypes": func(t *T) {
		t.write("f", "x")
		t.mkdir("d")
		want := map[string]byte{"f": unix.DT_REG, "d": unix.DT_DIR}
		if os.Symlink("f", t.path("l")) == nil {
			want["l"] = unix.DT_LNK
		}
		d := t.open(".", os.O_RDONLY)
		for _, e := range t.scan(int(d.Fd()), 4096) {
			if e.name == "." || e.name == ".." {
				continue
			}
			if e.typ != want[e.name] && e.typ != unix.DT_UNKNOWN {
				t.Errorf("%s is listed as type %d, want %d", e.name, e.typ, want[e.name])
			}
			if st := t.stat(e.name); st.Ino != e.ino {
				t.Errorf("%s is listed as inode %d, stat says %d", e.name, e.ino, st.Ino)
			}
		}
	},
	// ReaddirSmallBuffer: each entry comes once however little fits at a time.
	"ReaddirSmallBuffer": func(t *T) {
		names := t.files(".", 200)
		d := t.open(".", os.O_RDONLY)
		for _, size := range []int{48, 100, 1000} {
			t.must("rewind", rewind(int(d.Fd()), 0))
			var got []string
			for _, e := range t.scan(int(d.Fd()), size) {
				if e.name != "." && e.name != ".." {
					got = append(got, e.name)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, names) {
				t.Errorf("with %d bytes at a time %d entries came, want %d", size, len(got), len(names))
			}
		}
		t.must("rewind", rewind(int(d.Fd()), 0))
		_, err := getdents(int(d.Fd()), 10)
		t.fails("getdents into 10 bytes", err, unix.EINVAL)
	},
	// Seekdir goes back to each entry's offset and finds what followed it.
	"Seekdir": func(t *T) {
		t.files(".", 300)
		d := t.open(".", os.O_RDONLY)
		all := t.scan(int(d.Fd()), 4096)
		for i := len(all) - 2; i >= 0; i -= 7 {
			t.must("seek", rewind(int(d.Fd()), all[i].off))
			next, err := getdents(int(d.Fd()), 4096)
			t.must("getdents", err)
			if len(next) == 0 || next[0].name != all[i+1].name {
				t.Errorf("after %s: %d entries, not %s", all[i].name, len(next), all[i+1].name)
			}
		}
		t.must("seek", rewind(int(d.Fd()), all[len(all)-1].off))
		if next, err := getdents(int(d.Fd()), 4096); len(next) != 0 || err != nil {
			t.Errorf("after the last entry: %d more, %v", len(next), err)
		}
	},
	"Rewinddir": func(t *T) {
		t.write("a", "")
		d := t.open(".", os.O_RDONLY)
		t.scan(int(d.Fd()), 4096)
		t.write("b", "")
		t.remove("a")
		t.must("rewind", rewind(int(d.Fd()), 0))
		var got []string
		for _, e := range t.scan(int(d.Fd()), 4096) {
			got = append(got, e.name)
		}
		slices.Sort(got)
		if !slices.Equal(got, []string{".", "..", "b"}) {
			t.Errorf("after rewinddir: %q", got)
		}
	},
	// ReaddirWhileDeleting is rm -r: whatever was there is found and removed.
	"ReaddirWhileDeleting": func(t *T) {
		t.mkdir("d")
		t.files("d", 5000)
		d := t.open("d", os.O_RDONLY)
		removed := 0
		for {
			entries, err := getdents(int(d.Fd()), 4096)
			t.must("getdents", err)
			if len(entries) == 0 {
				break
			}
			for _, e := range entries {
				if e.name == "." || e.name == ".." {
					continue
				}
				t.must("unlink", unix.Unlinkat(int(d.Fd()), e.name, 0))
				removed++
			}
		}
		if removed != 5000 {
			t.Errorf("%d of 5000 were found in one pass", removed)
		}
		t.must("rmdir", unix.Rmdir(t.path("d")))
	},
	// ReaddirStable: names that stay are listed once while others come and go.
	"ReaddirStable": func(t *T) {
		names := t.files(".", 1000)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := t.path(fmt.Sprint("other-", i%50))
				t.check("write", os.WriteFile(name, nil, 0o600))
				t.check("remove", os.Remove(name))
			}
		})
		for range 5 {
			d := t.open(".", os.O_RDONLY)
			seen := map[string]int{}
			for _, e := range t.scan(int(d.Fd()), 2048) {
				seen[e.name]++
			}
			for _, name := range names {
				if seen[name] != 1 {
					t.Errorf("%s, there throughout, is listed %d times", name, seen[name])
				}
			}
			t.check("close", d.Close())
		}
		close(stop)
		wg.Wait()
	},
	"DirectoryOf10000": func(t *T) {
		names := t.files(".", 10000)
		entries, err := os.ReadDir(t.dir)
		t.must("readdir", err)
		if len(entries) != len(names) {
			t.Fatalf("%d entries, want %d", len(entries), len(names))
		}
		for i, e := range entries {
			if e.Name() != names[i] {
				t.Fatalf("entry %d is %s, want %s", i, e.Name(), names[i])
			}
			if _, err := e.Info(); err != nil {
				t.Fatalf("lstat: %v", err)
			}
		}
		for _, name := range names {
			t.remove(name)
		}
		t.lists(".")
	},
	"DirectoryRemovedOpen": func(t *T) {
		t.mkdir("d")
		d := t.open("d", os.O_RDONLY)
		t.must("rmdir", unix.Rmdir(t.path("d")))
		_, err := unix.Openat(int(d.Fd()), "f", unix.O_RDWR|unix.O_CREAT, 0o600)
		t.fails("create in a removed directory", err, unix.ENOENT)
		t.fails("mkdir in a removed directory", unix.Mkdirat(int(d.Fd()), "e", 0o700), unix.ENOENT)
		entries, err := getdents(int(d.Fd()), 4096)
		if err != unix.ENOENT && (err != nil || slices.ContainsFunc(entries, func(e dirent) bool { return e.name[0] != '.' })) {
			t.Errorf("getdents of a removed directory: %v, %v", entries, err)
		}
		t.mkdir("d")
		t.write("d/f", "x")
	},
	"DirectorySync": func(t *T) {
		d := t.open(".", os.O_RDONLY)
		t.write("f", "x")
		t.check("fsync of a directory", d.Sync())
	},
	// DirectoryTimes: a directory's mtime moves when names come, go or change.
	"DirectoryTimes": func(t *T) {
		t.mkdir("d")
		t.write("d/f", "x")
		for what, f := range map[string]func() error{
			"create": func() error { return os.WriteFile(t.path("d/new"), nil, 0o600) },
			"mkdir":  func() error { return os.Mkdir(t.path("d/sub"), 0o755) },
			"rename": func() error { return t.tryRename("d/f", "d/g") },
		} {
			t.setTimes("d", unix.Timespec{Sec: 1000}, unix.Timespec{Sec: 1000})
			t.must(what, f())
			if m := t.stat("d").Mtim.Sec; m == 1000 {
				t.Errorf("mtime did not move with %s", what)
			}
		}
		t.setTimes("d", unix.Timespec{Sec: 1000}, unix.Timespec{Sec: 1000})
		t.remove("d/g")
		if m := t.stat("d").Mtim.Sec; m == 1000 {
			t.Errorf("mtime did not move with unlink")
		}
	},
}
