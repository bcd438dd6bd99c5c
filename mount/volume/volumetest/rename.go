package volumetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

var renameTests = map[string]func(*T){
	"Rename": func(t *T) {
		t.write("a", "content")
		t.mkdir("d")
		ino := t.stat("a").Ino
		t.rename("a", "b")
		t.exists("a", false)
		t.has("b", "content")
		t.rename("b", "d/c")
		t.lists(".", "d")
		t.has("d/c", "content")
		if got := t.stat("d/c").Ino; got != ino {
			t.Errorf("inode %d became %d", ino, got)
		}
		t.rename("d/c", "d/c")
		t.has("d/c", "content")
	},
	"RenameOver": func(t *T) {
		t.write("a", "new")
		t.write("b", "old and longer")
		t.rename("a", "b")
		t.has("b", "new")
		t.lists(".", "b")
	},
	"RenameOverOpen": func(t *T) {
		t.write("a", "new")
		f := t.create("b")
		t.writeAt(f, "old", 0)
		t.rename("a", "b")
		t.readsAt(f, 0, "old")
		t.writeAt(f, "er", 3)
		t.readsAt(f, 0, "older")
		if st := t.fstat(f); st.Nlink != 0 {
			t.Errorf("%d links, want 0", st.Nlink)
		}
		t.check("close", f.Close())
		t.has("b", "new")
		t.lists(".", "b")
	},
	"RenameOpen": func(t *T) {
		f := t.create("a")
		t.writeAt(f, "one ", 0)
		t.rename("a", "b")
		t.writeAt(f, "two", 4)
		t.has("b", "one two")
		t.exists("a", false)
		t.write("a", "another")
		t.readsAt(f, 0, "one two")
		t.check("fsync", f.Sync())
		t.check("close", f.Close())
		t.has("b", "one two")
		t.has("a", "another")
	},
	// RenameSave is how editors save: write aside, fsync, rename over.
	"RenameSave": func(t *T) {
		t.write("f", "version 0")
		for i := range 20 {
			old := t.open("f", os.O_RDONLY)
			f := t.create("f.tmp")
			t.writeAt(f, fmt.Sprint("version ", i+1), 0)
			t.check("fsync", f.Sync())
			t.check("close", f.Close())
			t.rename("f.tmp", "f")
			t.has("f", fmt.Sprint("version ", i+1))
			t.readsAt(old, 0, fmt.Sprint("version ", i))
			t.check("close", old.Close())
		}
		t.lists(".", "f")
	},
	"RenameDirectory": func(t *T) {
		t.mkdir("d")
		t.mkdir("d/e")
		t.mkdir("other")
		t.write("d/e/f", "deep")
		f := t.open("d/e/f", os.O_RDWR)
		dir := t.open("d/e", os.O_RDONLY)
		t.rename("d", "other/moved")
		t.has("other/moved/e/f", "deep")
		t.exists("d/e/f", false)
		t.writeAt(f, "DEEP", 0)
		t.has("other/moved/e/f", "DEEP")
		fd, err := unix.Openat(int(dir.Fd()), "f", unix.O_RDONLY, 0)
		t.must("openat below a renamed directory", err)
		t.check("close", unix.Close(fd))
		up, want := unix.Stat_t{}, t.stat("other/moved")
		t.must("stat ..", unix.Stat(t.path("other/moved/e")+"/..", &up))
		if up.Ino != want.Ino {
			t.Errorf(".. leads to inode %d, want %d", up.Ino, want.Ino)
		}
	},
	"RenameDirectoryOver": func(t *T) {
		for _, d := range []string{"a", "empty", "full"} {
			t.mkdir(d)
		}
		t.write("a/f", "x")
		t.write("full/f", "y")
		t.write("file", "z")
		t.fails("over a full directory", t.tryRename("a", "full"), unix.ENOTEMPTY, unix.EEXIST)
		t.fails("file over directory", unix.Rename(t.path("file"), t.path("empty")), unix.EISDIR)
		t.fails("directory over file", unix.Rename(t.path("a"), t.path("file")), unix.ENOTDIR)
		t.fails("over the directory it is in", unix.Rename(t.path("a/f"), t.path("a")), unix.ENOTEMPTY, unix.EISDIR)
		t.rename("a", "empty")
		t.has("empty/f", "x")
		t.lists(".", "empty", "full", "file")
	},
	"RenameIntoItself": func(t *T) {
		t.mkdir("a")
		t.mkdir("a/b")
		t.fails("into itself", t.tryRename("a", "a/c"), unix.EINVAL)
		t.fails("into a subdirectory", t.tryRename("a", "a/b/c"), unix.EINVAL)
		t.fails("of .", unix.Rename(t.path("a")+"/.", t.path("c")), unix.EBUSY, unix.EINVAL)
		t.fails("of ..", unix.Rename(t.path("a/b")+"/..", t.path("c")), unix.EBUSY, unix.EINVAL)
		t.lists("a", "b")
	},
	"RenameErrors": func(t *T) {
		t.write("f", "x")
		t.fails("of nothing", t.tryRename("none", "g"), unix.ENOENT)
		t.fails("to nowhere", t.tryRename("f", "none/g"), unix.ENOENT)
		t.fails("below a file", t.tryRename("f", "f/g"), unix.ENOTDIR, unix.EINVAL)
		t.fails("of a file to g/", unix.Rename(t.path("f"), t.path("g")+"/"), unix.ENOTDIR)
		t.lists(".", "f")
	},
	"RenameNoReplace": func(t *T) {
		t.write("a", "a")
		t.write("b", "b")
		t.mkdir("d")
		t.fails("over a file", t.rename2("a", "b", unix.RENAME_NOREPLACE), unix.EEXIST)
		t.fails("over a directory", t.rename2("a", "d", unix.RENAME_NOREPLACE), unix.EEXIST)
		t.must("to a free name", t.rename2("a", "c", unix.RENAME_NOREPLACE))
		t.has("c", "a")
		t.has("b", "b")
	},
	"RenameExchange": func(t *T) {
		t.write("a", "was a")
		t.mkdir("d")
		t.write("d/b", "was b")
		t.fails("with nothing", t.rename2("a", "none", unix.RENAME_EXCHANGE), unix.ENOENT)
		t.must("two files", t.rename2("a", "d/b", unix.RENAME_EXCHANGE))
		t.has("a", "was b")
		t.has("d/b", "was a")
		t.must("file and directory", t.rename2("a", "d", unix.RENAME_EXCHANGE))
		t.has("a/b", "was a")
		t.has("d", "was b")
		t.fails("with its own directory", t.rename2("a", "a/b", unix.RENAME_EXCHANGE), unix.EINVAL)
	},
	"RenameHardLinks": func(t *T) {
		t.write("a", "x")
		t.must("link", os.Link(t.path("a"), t.path("b")))
		// rename(2): two links of one file: nothing is done.
		t.rename("a", "b")
		t.lists(".", "a", "b")
	},
	"RenameSymlink": func(t *T) {
		t.must("symlink", os.Symlink("target", t.path("l")))
		t.write("f", "x")
		t.rename("l", "m")
		if got, err := os.Readlink(t.path("m")); got != "target" || err != nil {
			t.Errorf("readlink after a rename: %q, %v", got, err)
		}
		t.rename("m", "f")
		if got, err := os.Readlink(t.path("f")); got != "target" || err != nil {
			t.Errorf("readlink after a rename over a file: %q, %v", got, err)
		}
		t.write("target", "y")
		t.write("g", "z")
		t.rename("g", "f")
		t.has("target", "y")
		t.has("f", "z")
	},
	// RenameStorm moves a few names about from many goroutines: nothing is lost
	// or doubled.
	"RenameStorm": func(t *T) {
		const workers, rounds, slots = 6, 60, 12
		for w := range workers {
			t.mkdir(fmt.Sprint("d", w))
			t.write(fmt.Sprintf("d%d/start", w), strings.Repeat(fmt.Sprint(w), 1000))
		}
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(w), 9))
				at := fmt.Sprintf("d%d/start", w)
				for i := range rounds {
					v := rnd.IntN(workers)
					to := fmt.Sprintf("d%d/w%d-%d", v, w, i%slots)
					if err := t.tryRename(at, to); err != nil {
						t.Errorf("rename: %v", err)
						return
					}
					at = to
					if _, err := os.ReadDir(t.path(fmt.Sprint("d", v))); err != nil {
						t.Errorf("readdir: %v", err)
					}
				}
				t.has(at, strings.Repeat(fmt.Sprint(w), 1000))
			})
		}
		wg.Wait()
		files := 0
		for w := range workers {
			entries, err := os.ReadDir(t.path(fmt.Sprint("d", w)))
			t.must("readdir", err)
			files += len(entries)
		}
		if files != workers {
			t.Errorf("%d files are left of %d", files, workers)
		}
	},
	// RenameOverStorm replaces one name without end: readers always find one
	// whole version.
	"RenameOverStorm": func(t *T) {
		t.write("f", strings.Repeat("a", 5000))
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range 3 {
			wg.Go(func() {
				for i := range 60 {
					tmp := fmt.Sprintf("tmp%d", w)
					letter := string(rune('a' + (w*60+i)%26))
					if err := os.WriteFile(t.path(tmp), []byte(strings.Repeat(letter, 5000)), 0o600); err != nil {
						t.Errorf("write: %v", err)
					}
					t.check("rename", t.tryRename(tmp, "f"))
				}
			})
		}
		var readers sync.WaitGroup
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				p, err := os.ReadFile(t.path("f"))
				if t.Stale && errors.Is(err, unix.ESTALE) {
					continue
				}
				if err != nil || len(p) != 5000 || strings.Count(string(p), string(p[:1])) != 5000 {
					t.Errorf("a reader saw no whole version: %d bytes, %v", len(p), err)
					return
				}
			}
		})
		wg.Wait()
		close(stop)
		readers.Wait()
		t.lists(".", "f")
	},
}
