package seccomp

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

//go:embed testdata/numbers.txt
var numbersText string

// numbers are the kernel's, by name and arch.
func numbers(t *testing.T) map[string]Numbers {
	m := map[string]Numbers{}
	for line := range strings.Lines(numbersText) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Fields(line)
		if len(f) != 1+int(numArch) {
			t.Fatalf("testdata line %q", line)
		}
		n := absent
		for a := range numArch {
			if f[1+a] != "-" {
				var err error
				if n[a], err = strconv.Atoi(f[1+a]); err != nil {
					t.Fatal(err)
				}
			}
		}
		m[f[0]] = n
	}
	return m
}

func TestNumbers(t *testing.T) {
	kernel := numbers(t)
	for _, r := range table {
		if r.Feature == FeatureX32 {
			continue
		}
		plain, ok := kernel[r.Name]
		if !ok {
			t.Errorf("%s: no such call in testdata", r.Name)
			continue
		}
		want, want16 := plain, absent
		if wide, ok := kernel[r.Name+"32"]; ok {
			for a := range numArch {
				if wide[a] >= 0 {
					want[a], want16[a] = wide[a], plain[a]
				}
			}
		}
		if r.NR != want || r.NR16 != want16 {
			t.Errorf("%s: numbers %v and %v, the kernel has %v and %v", r.Name, r.NR, r.NR16, want, want16)
		}
	}
}

// TestHeaders compares with the headers of the machine, where it has them.
func TestHeaders(t *testing.T) {
	kernel := numbers(t)
	define := regexp.MustCompile(`^#define\s+__NR(?:3264)?_(\w+)\s+(\d+)`)
	for file, arch := range map[string]Arch{
		"/usr/include/x86_64-linux-gnu/asm/unistd_64.h": AMD64,
		"/usr/include/x86_64-linux-gnu/asm/unistd_32.h": I386,
		"/usr/include/asm/unistd_64.h":                  AMD64,
		"/usr/include/asm/unistd_32.h":                  I386,
		"/usr/include/asm-generic/unistd.h":             ARM64,
	} {
		f, err := os.Open(file)
		if err != nil {
			t.Logf("not compared: %v", err)
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			m := define.FindStringSubmatch(lines.Text())
			if m == nil {
				continue
			}
			want, ok := kernel[m[1]]
			if !ok {
				continue
			}
			if nr, _ := strconv.Atoi(m[2]); nr != want[arch] {
				t.Errorf("%s: %s is %d on %s, testdata has %d", file, m[1], nr, arch, want[arch])
			}
		}
		f.Close()
	}
}

func TestRowsAreComplete(t *testing.T) {
	names := map[string]bool{}
	for _, r := range table {
		if names[r.Name] {
			t.Errorf("%s stands twice", r.Name)
		}
		names[r.Name] = true
		if r.Does == "" || r.Why == "" || r.Feature == "" {
			t.Errorf("%s says too little: %+v", r.Name, r)
		}
		if (len(r.When) > 0) != (r.Only != "") && r.Feature != FeatureX32 {
			t.Errorf("%s: its condition and its words for it differ", r.Name)
		}
	}
}

func TestCatches(t *testing.T) {
	const minusOne, minusOne16 = 0xffffffff, 0xffff
	for _, tt := range []struct {
		name string
		id16 bool
		args [6]uint64
		want bool
	}{
		{"mount", false, [6]uint64{3: 0}, true},
		{"mount", false, [6]uint64{3: unix.MS_RDONLY | unix.MS_NOSUID}, true},
		{"mount", false, [6]uint64{3: unix.MS_MGC_VAL}, true},
		{"mount", false, [6]uint64{3: unix.MS_MGC_VAL | unix.MS_RDONLY}, true},
		{"mount", false, [6]uint64{3: unix.MS_MGC_VAL | unix.MS_REMOUNT}, true},
		{"mount", false, [6]uint64{3: unix.MS_MGC_VAL | unix.MS_BIND}, false},
		{"mount", false, [6]uint64{3: unix.MS_BIND}, false},
		{"mount", false, [6]uint64{3: unix.MS_BIND | unix.MS_REC}, false},
		{"mount", false, [6]uint64{3: unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY}, false},
		{"mount", false, [6]uint64{3: unix.MS_REMOUNT}, true},
		{"mount", false, [6]uint64{3: unix.MS_REMOUNT | unix.MS_PRIVATE}, true},
		{"mount", false, [6]uint64{3: unix.MS_MOVE}, false},
		{"mount", false, [6]uint64{3: unix.MS_REC | unix.MS_PRIVATE}, false},
		{"mount", false, [6]uint64{3: unix.MS_SHARED}, false},
		{"umount2", false, [6]uint64{1: 0}, false},
		{"umount2", false, [6]uint64{1: unix.MNT_DETACH}, false},
		{"umount2", false, [6]uint64{1: unix.MNT_FORCE | unix.MNT_DETACH}, true},
		{"fsopen", false, [6]uint64{}, true},
		{"chown", false, [6]uint64{1: 0, 2: 0}, false},
		{"chown", false, [6]uint64{1: minusOne, 2: 0}, false},
		{"chown", false, [6]uint64{1: 0xffffffffffffffff, 2: 0}, false},
		{"chown", false, [6]uint64{1: 1000, 2: minusOne}, true},
		{"chown", false, [6]uint64{1: minusOne, 2: 1000}, true},
		{"chown", false, [6]uint64{1: minusOne16, 2: 0}, true},
		{"chown", true, [6]uint64{1: minusOne16, 2: 0}, false},
		{"chown", true, [6]uint64{1: 7, 2: 0}, true},
		{"setresuid", false, [6]uint64{minusOne, minusOne, 5}, true},
		{"setresuid", false, [6]uint64{minusOne, 0, minusOne}, false},
		{"mknod", false, [6]uint64{1: unix.S_IFREG}, false},
		{"mknod", false, [6]uint64{1: unix.S_IFIFO | 0o644}, false},
		{"mknod", false, [6]uint64{1: unix.S_IFCHR, 2: 0}, false},
		{"mknod", false, [6]uint64{1: unix.S_IFCHR | 0o600, 2: 0x501}, true},
		{"bind", false, [6]uint64{2: unix.SizeofSockaddrInet4}, true},
		{"bind", false, [6]uint64{2: unix.SizeofSockaddrInet6}, true},
		{"bind", false, [6]uint64{2: unix.SizeofSockaddrNetlink}, false},
		{"bind", false, [6]uint64{2: minusOne}, true},
		{"mknodat", false, [6]uint64{2: unix.S_IFBLK | 0o600, 3: 0}, true},
	} {
		r, ok := Lookup(tt.name)
		if !ok {
			t.Fatal(tt.name)
		}
		if got := r.Catches(tt.args, tt.id16); got != tt.want {
			t.Errorf("%s(%#x) 16-bit %v: caught %v, want %v", tt.name, tt.args, tt.id16, got, tt.want)
		}
	}
}

func TestWiden(t *testing.T) {
	e := byNumber[I386][182] // chown16
	args := [6]uint64{0x1234567, 0xffff, 0x10007}
	e.widen(&args)
	if want := [6]uint64{0x1234567, 0xffffffff, 7}; args != want {
		t.Errorf("widened to %#x, want %#x", args, want)
	}
}

func TestPrint(t *testing.T) {
	for name, write := range map[string]func(*strings.Builder) error{
		"text":     func(b *strings.Builder) error { return WriteText(b) },
		"markdown": func(b *strings.Builder) error { return WriteMarkdown(b) },
	} {
		var b strings.Builder
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		for _, r := range table {
			if !strings.Contains(b.String(), r.Name) || !strings.Contains(b.String(), r.Does) {
				t.Errorf("%s: %s is missing", name, r.Name)
			}
		}
	}
	j, err := json.Marshal(Table()[0].NR)
	if want := `{"amd64":165,"arm":21,"arm64":40,"i386":21}`; err != nil || string(j) != want {
		t.Errorf("numbers as JSON: %s, %v, want %s", j, err, want)
	}
}
