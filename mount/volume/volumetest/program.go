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

// processTests run programs there and watch what they do.
var processTests = map[string]func(*T){
	"Exec": func(t *T) {
		src, err := os.Open("/proc/self/exe")
		t.must("open", err)
		defer src.Close()
		dst, err := t.tryOpen("program", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
		t.must("create", err)
		_, err = io.Copy(dst, src)
		t.must("copy", err)
		t.must("close", dst.Close())
		p, err := t.spawn(t.path("program"), nil)
		t.must("run a program", err)
		if a := p.do(request{Op: "hello"}); a.Text != "hello" {
			t.Errorf("the program says %q", a.Text)
		}
		t.remove("program")
		if a := p.do(request{Op: "hello"}); a.Text != "hello" {
			t.Errorf("once removed the program says %q", a.Text)
		}
	},
	// Inotify: what is done on this machine is told.
	"Inotify": func(t *T) {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		t.must("inotify", err)
		events := os.NewFile(uintptr(fd), "inotify")
		defer events.Close()
		_, err = unix.InotifyAddWatch(fd, t.dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_CLOSE_WRITE|unix.IN_MOVED_FROM|unix.IN_MOVED_TO|unix.IN_DELETE)
		t.must("watch", err)
		t.write("a", "x")
		t.rename("a", "b")
		t.remove("b")
		want := []string{"create a", "modify a", "close a", "from a", "to b", "delete b"}
		var got []string
		buf := make([]byte, 4096)
		for len(got) < len(want) {
			n, err := events.Read(buf)
			t.must("read events", err)
			for p := buf[:n]; len(p) > 0; {
				mask, size := binary.NativeEndian.Uint32(p[4:]), binary.NativeEndian.Uint32(p[12:])
				name := strings.TrimRight(string(p[16:16+size]), "\x00")
				what := map[uint32]string{
					unix.IN_CREATE: "create", unix.IN_MODIFY: "modify", unix.IN_CLOSE_WRITE: "close",
					unix.IN_MOVED_FROM: "from", unix.IN_MOVED_TO: "to", unix.IN_DELETE: "delete",
				}[mask]
				got = append(got, what+" "+name)
				p = p[16+size:]
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
	},
	"WorkingDirectory": func(t *T) {
		t.mkdir("d")
		d := t.open("d", os.O_RDONLY)
		t.rename("d", "e")
		target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", d.Fd()))
		if err != nil || target != t.path("e") {
			t.Errorf("a renamed directory is %q, %v; want %q", target, err, t.path("e"))
		}
	},
	// ManyAtOnce makes, writes, links, lists and removes from many goroutines.
	"ManyAtOnce": func(t *T) {
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := range 25 {
					dir := fmt.Sprintf("w%d-%d", w, i)
					t.mkdir(dir)
					for j := range 4 {
						name := fmt.Sprintf("%s/%d", dir, j)
						t.write(name, strings.Repeat(name, 100))
						t.has(name, strings.Repeat(name, 100))
					}
					t.lists(dir, "0", "1", "2", "3")
					t.rename(dir, dir+"r")
					if err := os.RemoveAll(t.path(dir + "r")); err != nil {
						t.Errorf("remove: %v", err)
					}
				}
			})
		}
		wg.Wait()
		t.lists(".")
	},
	"Tree": func(t *T) {
		for i := range 10 {
			t.mkdir(fmt.Sprint(i))
			for j := range 20 {
				t.write(fmt.Sprintf("%d/%d", i, j), fmt.Sprint(i*j))
			}
		}
		t.must("copy", os.CopyFS(t.path("copy"), os.DirFS(t.path("3"))))
		t.has("copy/7", "21")
		t.must("remove", os.RemoveAll(t.path("3")))
		t.exists("3", false)
	},
}
