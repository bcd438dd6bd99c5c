package volumetest

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mmap maps n bytes of a file from its start, shared, until the test's end.
func (t *T) mmap(f *os.File, n, prot int) []byte {
	m, err := unix.Mmap(int(f.Fd()), 0, n, prot, unix.MAP_SHARED)
	t.must("mmap", err)
	t.atEnd(func() { _ = unix.Munmap(m) }) // EINVAL where the test has done so
	return m
}

const readWrite = unix.PROT_READ | unix.PROT_WRITE

var mmapTests = map[string]func(*T){
	"MmapRead": func(t *T) {
		text := pattern(1, 300001)
		t.write("f", text)
		f := t.open("f", os.O_RDONLY)
		m := t.mmap(f, len(text), unix.PROT_READ)
		t.same("mapped", m, []byte(text), nil)
		t.check("close", f.Close())
		t.same("mapped, file closed", m, []byte(text), nil)
	},
	// MmapAfterWrite: a mapping sees later writes.
	"MmapAfterWrite": func(t *T) {
		f := t.create("f")
		t.writeAt(f, pattern(1, 20000), 0)
		m := t.mmap(f, 20000, unix.PROT_READ)
		t.same("mapped", m, []byte(pattern(1, 20000)), nil)
		g := t.open("f", os.O_WRONLY)
		t.writeAt(g, "changed", 8190)
		t.same("mapped, after a write", m[8190:8197], []byte("changed"), nil)
	},
	// MmapShared: stores are seen by reads at once, and by another open after
	// msync or close.
	"MmapShared": func(t *T) {
		f := t.create("f")
		t.must("truncate", f.Truncate(100000))
		m := t.mmap(f, 100000, readWrite)
		copy(m[50000:], "stored")
		t.readsAt(f, 50000, "stored")
		g := t.open("f", os.O_RDWR)
		t.readsAt(g, 50000, "stored")
		t.writeAt(g, "W", 50000)
		if m[50000] != 'W' {
			t.Errorf("the mapping does not see a write")
		}
		copy(m[70000:], "synced")
		t.must("msync", again(func() error { return unix.Msync(m, unix.MS_SYNC) }))
		p := t.start()
		fd := p.open("f", os.O_RDONLY)
		if a := p.do(request{Op: "read", FD: fd, Start: 70000, Len: 6}); a.Text != "synced" {
			t.Errorf("another process reads %q after msync", a.Text)
		}
		copy(m[90000:], "unmapped")
		t.must("munmap", unix.Munmap(m))
		t.check("close", f.Close())
		t.check("close", g.Close())
		h := t.open("f", os.O_RDONLY)
		t.readsAt(h, 90000, "unmapped")
		t.readsAt(h, 50000, "Wtored")
	},
	"MmapHole": func(t *T) {
		f := t.create("f")
		t.writeAt(f, "end", 1<<20)
		m := t.mmap(f, 1<<20+3, readWrite)
		t.same("hole", m[:1<<20], make([]byte, 1<<20), nil)
		t.same("after the hole", m[1<<20:], []byte("end"), nil)
		copy(m[500000:], "in the hole")
		t.must("msync", again(func() error { return unix.Msync(m, unix.MS_SYNC) }))
		t.readsAt(f, 500000, "in the hole")
	},
	// MmapTail: stores past the end within the last page do not become data.
	"MmapTail": func(t *T) {
		f := t.create("f")
		t.writeAt(f, "tail", 0)
		m := t.mmap(f, 4096, readWrite)
		t.same("past the end", m[4:4096], make([]byte, 4092), nil)
		copy(m[2:], "XXXXXX")
		t.must("msync", again(func() error { return unix.Msync(m, unix.MS_SYNC) }))
		t.must("munmap", unix.Munmap(m))
		t.has("f", "taXX")
		if st := t.fstat(f); st.Size != 4 {
			t.Errorf("size %d, want 4", st.Size)
		}
	},
	"MmapGrow": func(t *T) {
		f := t.create("f")
		t.writeAt(f, "x", 0)
		m := t.mmap(f, 16384, readWrite)
		t.must("truncate", f.Truncate(16384))
		copy(m[10000:], "grown")
		t.readsAt(f, 10000, "grown")
		t.writeAt(f, "written", 12000)
		t.same("mapped", m[12000:12007], []byte("written"), nil)
	},
	"MmapPrivate": func(t *T) {
		t.write("f", strings.Repeat("x", 10000))
		f := t.open("f", os.O_RDONLY)
		m, err := unix.Mmap(int(f.Fd()), 0, 10000, readWrite, unix.MAP_PRIVATE)
		t.must("mmap private", err)
		defer unix.Munmap(m)
		copy(m, "private")
		t.has("f", strings.Repeat("x", 10000))
	},
	"MmapUnlinked": func(t *T) {
		f := t.create("f")
		t.writeAt(f, pattern(3, 50000), 0)
		m := t.mmap(f, 50000, readWrite)
		t.remove("f")
		t.check("close", f.Close())
		t.same("mapped, file gone", m, []byte(pattern(3, 50000)), nil)
		copy(m[30000:], "still")
		t.check("msync", again(func() error { return unix.Msync(m, unix.MS_SYNC) }))
		t.same("stored", m[30000:30005], []byte("still"), nil)
	},
	"MmapErrors": func(t *T) {
		t.write("f", "x")
		r := t.open("f", os.O_RDONLY)
		_, err := unix.Mmap(int(r.Fd()), 0, 1, readWrite, unix.MAP_SHARED)
		t.fails("shared and writable of O_RDONLY", err, unix.EACCES)
		w := t.open("f", os.O_WRONLY)
		_, err = unix.Mmap(int(w.Fd()), 0, 1, unix.PROT_READ, unix.MAP_SHARED)
		t.fails("of O_WRONLY", err, unix.EACCES)
	},
	// MmapTruncated: what a truncate cut off is zero when it comes back.
	"MmapTruncated": func(t *T) {
		f := t.create("f")
		t.writeAt(f, strings.Repeat("x", 20000), 0)
		m := t.mmap(f, 20000, readWrite)
		copy(m[5000:], "y")
		t.must("down", f.Truncate(4500))
		t.must("up", f.Truncate(20000))
		t.same("mapped", m[4500:20000], make([]byte, 15500), nil)
		t.readsAt(f, 4490, "xxxxxxxxxx\x00\x00\x00")
	},
}
