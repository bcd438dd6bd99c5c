package fuse

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestFiles(t *testing.T) {
	dir, s := serve(t, newMemfs(), Config{})
	name := filepath.Join(dir, "file")
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	f := open(t, name, os.O_RDWR|os.O_CREATE)
	if n, err := f.Write(want); n != len(want) || err != nil {
		t.Fatal(n, err)
	}
	got := make([]byte, len(want)+1)
	if n, err := f.ReadAt(got, 0); n != len(want) || err != io.EOF || !bytes.Equal(got[:n], want) {
		t.Fatalf("read %d bytes, %v; want the %d written", n, err, len(want))
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(name); err != nil || fi.Mode() != 0o644 || fi.Size() != int64(len(want)) {
		t.Fatalf("stat: %v, %v", fi, err)
	}
	st := s.Stats()
	if st.Written != uint64(len(want)) || st.Unsent != 0 || st.Malformed != 0 {
		t.Errorf("stats: %+v", st)
	}

}
