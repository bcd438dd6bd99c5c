package regular_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/regular"
)

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{"empty": "", "full": "12345678", "more": "123456789"} {
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(unix.Mkfifo(at("fifo"), 0o600), os.Mkdir(at("dir"), 0o700), os.Symlink("full", at("link")), os.Symlink("fifo", at("tofifo")),
		os.Truncate(at("more"), 1<<40)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path, text string
		err        error
	}{
		"an empty file":        {at("empty"), "", nil},
		"a full one":           {at("full"), "12345678", nil},
		"through a link":       {at("link"), "12345678", nil},
		"one of a terabyte":    {at("more"), "", unix.EFBIG},
		"a FIFO":               {at("fifo"), "", regular.ErrNotRegular},
		"a FIFO by a link":     {at("tofifo"), "", regular.ErrNotRegular},
		"a directory":          {at("dir"), "", regular.ErrNotRegular},
		"a device":             {"/dev/zero", "", regular.ErrNotRegular},
		"nothing":              {at("none"), "", fs.ErrNotExist},
		"below what is a file": {at("full/x"), "", unix.ENOTDIR},
	} {
		b, err := regular.ReadFile(c.path, 8)
		if string(b) != c.text || !errors.Is(err, c.err) {
			t.Errorf("%s: %q, %v; want %q, %v", name, b, err, c.text, c.err)
		}
	}
}
