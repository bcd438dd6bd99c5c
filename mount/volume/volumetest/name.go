package volumetest

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

var nameTests = map[string]func(*T){
	"NameLong": func(t *T) {
		long := strings.Repeat("n", 255)
		t.write(long, "x")
		t.has(long, "x")
		t.lists(".", long)
		t.mkdir("d")
		t.rename(long, "d/"+long)
		t.has("d/"+long, "x")
		t.remove("d/" + long)
		t.mkdir(long)
		t.must("rmdir", unix.Rmdir(t.path(long)))
	},
	"NameTooLong": func(t *T) {
		long := strings.Repeat("n", 256)
		t.write("f", "x")
		_, err := t.tryOpen(long, os.O_RDWR|os.O_CREATE, 0o644)
		t.fails("create", err, unix.ENAMETOOLONG)
		_, err = os.Lstat(t.path(long))
		t.fails("lstat", err, unix.ENAMETOOLONG)
		t.fails("mkdir", os.Mkdir(t.path(long), 0o755), unix.ENAMETOOLONG)
		t.fails("rename", t.tryRename("f", long), unix.ENAMETOOLONG)
		t.fails("unlink", unix.Unlink(t.path(long)), unix.ENAMETOOLONG)
		t.fails("rmdir", unix.Rmdir(t.path(long)), unix.ENAMETOOLONG)
		t.fails("symlink", os.Symlink("x", t.path(long)), unix.ENAMETOOLONG)
		t.fails("link", os.Link(t.path("f"), t.path(long)), unix.ENAMETOOLONG)
	},
	"NamePrintable": func(t *T) {
		var want []string
		for c := byte(' '); c <= '~'; c++ {
			if c == '/' || strings.IndexByte(t.NoChars, c) >= 0 {
				continue
			}
			name := "x" + string(c) + "y"
			t.write(name, name)
			want = append(want, name)
		}
		t.lists(".", want...)
		for _, name := range want {
			t.has(name, name)
			t.rename(name, name+"2")
			t.remove(name + "2")
		}
	},
	"NameSpaces":   func(t *T) { t.names(" leading", "in the middle", "   many   ") },
	"NameTrailing": func(t *T) { t.names("space ", "dot.", "dots...", " . ", "a. ") },
	"NameDots":     func(t *T) { t.names(".hidden", "..two", "...", "....") },
	"NameUTF8": func(t *T) {
		t.names("grüße", "日本語のファイル名", "emoji 🐧", "Ελληνικά", "עברית", strings.Repeat("é", 127))
	},
	// NameNormal: composed and decomposed characters are different names.
	"NameNormal":  func(t *T) { t.names("caf\u00e9", "cafe\u0301") },
	"NameControl": func(t *T) { t.names("new\nline", "tab\t", "bell\a", "esc\x1b[0m", "del\x7f", "cr\r") },
	"NameBytes":   func(t *T) { t.names("latin1 \xe9", "\xff\xfe", "cut \xe2\x82") },
	"NameCase":    func(t *T) { t.names("readme", "README", "ReadMe", "straße", "STRASSE") },
	"NameDevices": func(t *T) { t.names("con", "NUL", "aux.txt", "COM1", "lpt1.x", "a~1", "ABCDEF~1.TXT") },
}

// names makes files, then directories, with these names and checks that each is itself.
func (t *T) names(names ...string) {
	for _, name := range names {
		t.write(name, "content of "+name)
	}
	t.lists(".", names...)
	for _, name := range names {
		t.has(name, "content of "+name)
		t.remove(name)
	}
	for _, name := range names {
		t.mkdir(name)
		t.write(name+"/f", name)
	}
	t.lists(".", names...)
	for _, name := range names {
		t.has(name+"/f", name)
		t.rename(name, "moved")
		t.rename("moved", name)
		t.has(name+"/f", name)
	}
}
