package guest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/feature"
	"github.com/lxbridge/lx/core/guest"
	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/core/seccomp/seccomptest"
)

func expectErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestMemory(t *testing.T) {
	at(t, "memory", nil, func(tr *seccomp.Trap) {
		s, err := tr.ReadString(tr.Args[0], 4096)
		if tr.Args[2] == 1 {
			expectErr(t, "a string that runs off its page", err, unix.EFAULT)
			b := make([]byte, 100)
			if n, err := tr.ReadMemory(tr.Args[0], b); n != 6 || err != nil {
				t.Errorf("reading up to the end: %d bytes, %v", n, err)
			}
			_, err = tr.ReadMemory(tr.Args[0]+6, b)
			expectErr(t, "reading behind the end", err, unix.EFAULT)
			return
		}
		if s != "whole" || err != nil {
			t.Errorf("a string up to the end of its page: %q, %v", s, err)
		}
		if s, err := tr.ReadString(tr.Args[0], 5); s != "whole" || err != nil {
			t.Errorf("with just enough room: %q, %v", s, err)
		}
		_, err = tr.ReadString(tr.Args[0], 4)
		expectErr(t, "a string that is too long", err, unix.ENAMETOOLONG)
		_, err = tr.ReadString(0, 4096)
		expectErr(t, "a string at NULL", err, unix.EFAULT)
		if n, err := tr.WriteMemory(tr.Args[3], []byte("wrote!")); n != 6 || err != nil {
			t.Errorf("writing across pages: %d bytes, %v", n, err)
		}
	})
}

func TestMemoryOfNobody(t *testing.T) {
	_, err := guest.Thread{TID: 1 << 30}.ReadMemory(0x1000, make([]byte, 1))
	expectErr(t, "memory of no thread", err, unix.ESRCH)
}

func TestVariable(t *testing.T) {
	c := exec.Command("cat")
	c.Env = []string{"OTHER=1", "KRB5CCNAME=FILE:/tmp/cache=1", "KRB5CCNAMES=2"}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"KRB5CCNAME": "FILE:/tmp/cache=1", "KRB5": "", "NONE": ""} {
		if got, err := (guest.Thread{TID: c.Process.Pid}).Variable(t.Context(), name); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	in.Close()
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}

func TestView(t *testing.T) {
	at(t, "jail", []string{t.TempDir()}, func(tr *seccomp.Trap) {
		err := tr.Do(t.Context(), func() error {
			for _, path := range []string{"file", "/work/file", "/../work/file"} {
				if b, err := os.ReadFile(path); string(b) != "inside" {
					t.Errorf("%s in the guest's view: %q, %v", path, b, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if _, err := os.Stat("/work/file"); err == nil {
			t.Error("the test itself has moved into the view")
		}
		want := errors.New("mine")
		expectErr(t, "f's error", tr.Do(t.Context(), func() error { return want }), want)
	})
}

func TestViewLeavesWhenTold(t *testing.T) {
	at(t, "here", nil, func(tr *seccomp.Trap) {
		ctx, cancel := context.WithCancelCause(t.Context())
		release, ended := make(chan struct{}), make(chan struct{})
		err := tr.Do(ctx, func() error {
			cancel(seccomp.ErrInterrupted)
			<-release
			close(ended)
			return nil
		})
		expectErr(t, "Do with its context at an end", err, seccomp.ErrInterrupted)
		close(release)
		<-ended
	})
}

// tmpfs makes a detached mount with a file in it.
func tmpfs(t *testing.T) int {
	t.Helper()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Fatal(err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Openat(mount, "mounted", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	return mount
}

func TestAttach(t *testing.T) {
	for _, target := range []string{"/work/target", "target", "./target/", "/link", "../link"} {
		t.Run(target, func(t *testing.T) {
			at(t, "jail", []string{t.TempDir(), "mounted"}, func(tr *seccomp.Trap) {
				mount := tmpfs(t)
				defer unix.Close(mount)
				if err := tr.Attach(t.Context(), mount, target, tr.Commit); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestPlace(t *testing.T) {
	for _, own := range []bool{false, true} {
		at(t, "sealed", nil, func(tr *seccomp.Trap) { testPlace(t, tr, own) })
	}
}

func testPlace(t *testing.T, tr *seccomp.Trap, own bool) {
	mount := tmpfs(t)
	defer unix.Close(mount)
	if err := tr.Place(t.Context(), mount, "/mnt/bus/usb", own); err != nil {
		t.Error(err)
	}
	// What is no mount of a FUSE file system is left alone.
	if err := tr.Remove(t.Context(), "/mnt/bus/usb"); err != nil {
		t.Error(err)
	}
	if err := tr.Remove(t.Context(), "/mnt/nowhere"); err != nil {
		t.Error(err)
	}
	expectErr(t, "a file in the way", tr.Place(t.Context(), mount, "/mnt/file/usb", own), unix.ENOTDIR)
}

func TestAttachRefuses(t *testing.T) {
	at(t, "jail", []string{t.TempDir()}, func(tr *seccomp.Trap) {
		mount := tmpfs(t)
		defer unix.Close(mount)
		for target, want := range map[string]error{
			"":          unix.ENOENT,
			"/nowhere":  unix.ENOENT,
			"file":      unix.ENOTDIR,
			"file/x":    unix.ENOTDIR,
			"/work/../": nil,
		} {
			if want != nil {
				expectErr(t, target, tr.Attach(t.Context(), mount, target, nil), want)
			}
		}
		no := errors.New("no")
		expectErr(t, "commit's error", tr.Attach(t.Context(), mount, "target", func() error { return no }), no)
	})
}

func TestMayMount(t *testing.T) {
	for _, tt := range []struct {
		program string
		args    []string
		want    error
	}{
		{"here", nil, nil},
		{"nocaps", nil, unix.EPERM},
		{"userns", []string{"same"}, unix.EPERM},
		{"userns", []string{"mnt"}, nil},
	} {
		t.Run(tt.program, func(t *testing.T) {
			at(t, tt.program, tt.args, func(tr *seccomp.Trap) {
				if err := tr.MayMount(); !errors.Is(err, tt.want) {
					t.Errorf("%s %v: %v, want %v", tt.program, tt.args, err, tt.want)
				}
			})
		})
	}
}

// TestReadFile: what the caller may not read is not read for it.
func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain, closed := write("plain", 0o644), write("closed", 0)
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	read := func(tr *seccomp.Trap, path string, limit int64, want error) {
		t.Helper()
		b, err := tr.ReadFile(t.Context(), path, limit)
		if want == nil && (err != nil || string(b) != "content") {
			t.Errorf("%s: %q, %v", path, b, err)
		} else if !errors.Is(err, want) || want != nil && b != nil {
			t.Errorf("%s: %q, %v; want %v", path, b, err, want)
		}
	}
	at(t, "here", nil, func(tr *seccomp.Trap) {
		read(tr, plain, 7, nil)
		read(tr, plain, 6, unix.EFBIG)
		read(tr, closed, 7, nil) // root of its own namespace may
		read(tr, dir, 7, unix.EINVAL)
		read(tr, fifo, 7, unix.EINVAL)
		read(tr, dir+"/nothing", 7, unix.ENOENT)
	})
	at(t, "nocaps", nil, func(tr *seccomp.Trap) {
		read(tr, plain, 7, nil)
		read(tr, closed, 7, unix.EACCES)
	})
	// Root of a further namespace has its capabilities over its own ids
	// only; here it is the same id, so this is stricter than the kernel.
	at(t, "userns", []string{"mnt"}, func(tr *seccomp.Trap) {
		read(tr, plain, 7, nil)
		read(tr, closed, 7, unix.EACCES)
	})
	if seccomptest.IDs() == 1 {
		return // no other user to be
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	roots, groups := write("roots", 0o600), write("groups", 0o640)
	if err := os.Chown(groups, 0, 4242); err != nil {
		t.Fatal(err)
	}
	openUp(t, dir)
	at(t, "user", []string{"1234", "1234", "99"}, func(tr *seccomp.Trap) {
		read(tr, plain, 7, nil)
		read(tr, roots, 7, unix.EACCES)
		read(tr, groups, 7, unix.EACCES)
	})
	at(t, "user", []string{"1234", "1234", "4242"}, func(tr *seccomp.Trap) { read(tr, groups, 7, nil) })
}

// openUp lets others reach dir below the temporary directory.
func openUp(t *testing.T, dir string) {
	t.Helper()
	for d := dir; d != filepath.Clean(os.TempDir()) && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestIDs(t *testing.T) {
	at(t, "here", nil, func(tr *seccomp.Trap) {
		s, err := tr.Status()
		if err != nil || s.TGID != tr.TID || s.UID != 0 || s.FSGID != 0 || s.Threads < 1 || s.Name != "exe" && s.Name == "" {
			t.Errorf("%+v, %v", s, err)
		}
	})
	if seccomptest.IDs() == 1 {
		return
	}
	at(t, "user", []string{"1234", "1235", "99"}, func(tr *seccomp.Trap) {
		s, err := tr.Status()
		if err != nil || s.EUID != 1234 || s.FSUID != 1234 || s.FSGID != 1235 || !slices.Equal(s.Groups, []uint32{99}) || s.Umask != 0o27 {
			t.Errorf("%+v, %v", s, err)
		}
		if s.CapEff != 0 {
			t.Errorf("capabilities %#x", s.CapEff)
		}
	})
}

func TestDescriptors(t *testing.T) {
	at(t, "fd", nil, func(tr *seccomp.Trap) {
		ours, err := tr.GetFD(int(tr.Args[0]))
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(ours)
		if same, err := tr.SameFile(int(tr.Args[0]), ours); !same || err != nil {
			t.Errorf("a descriptor and its copy: %v, %v", same, err)
		}
		if same, err := tr.SameFile(int(tr.Args[2]), ours); same || err != nil {
			t.Errorf("two ends of a pipe: %v, %v", same, err)
		}
		_, err = tr.SameFile(999, ours)
		expectErr(t, "no descriptor", err, unix.EBADF)
		_, err = tr.GetFD(999)
		expectErr(t, "no descriptor", err, unix.EBADF)
		b := make([]byte, 10)
		if n, err := unix.Read(ours, b); string(b[:max(n, 0)]) != "piped" {
			t.Errorf("read %q, %v", b, err)
		}
	})
}

func TestExit(t *testing.T) {
	var exited, never <-chan struct{}
	at(t, "exitnow", nil, func(tr *seccomp.Trap) {
		var err error
		if exited, err = tr.Exit(t.Context()); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if never, err = tr.Exit(ctx); err != nil {
			t.Error(err)
		}
		cancel()
		select {
		case <-exited:
			t.Error("exited while it waits")
		default:
		}
	})
	<-exited
	select {
	case <-never:
		t.Error("told though its context had ended")
	default:
	}
}

func TestDial(t *testing.T) {
	addr := server(t)
	port := ":" + strconv.Itoa(addr.Port)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	at(t, "here", nil, func(tr *seccomp.Trap) {
		for _, host := range []string{"127.0.0.1", "localhost"} {
			c, err := tr.DialContext(ctx, "tcp4", host+port)
			if err != nil {
				t.Error(err)
				continue
			}
			c.Close()
		}
		_, err := tr.DialContext(ctx, "tcp", "127.0.0.1:1")
		expectErr(t, "a closed port", err, unix.ECONNREFUSED)
	})
	at(t, "hosts", nil, func(tr *seccomp.Trap) {
		c, err := tr.DialContext(ctx, "tcp", "NAS"+port)
		if err != nil {
			t.Error(err)
		} else {
			c.Close()
		}
		if _, err := tr.DialContext(ctx, "tcp", "other"+port); err == nil {
			t.Error("a name that no file has was found")
		}
	})
	at(t, "unshared", nil, func(tr *seccomp.Trap) {
		_, err := tr.DialContext(ctx, "tcp", "127.0.0.1"+port)
		expectErr(t, "a network of its own", err, unix.ENETUNREACH)
	})
}

// TestFallbacks takes descriptors where a pidfd cannot name a thread (before 6.9).
func TestFallbacks(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestDescriptors$", "-test.v")
	cmd.Env = append(os.Environ(), feature.Env+"="+string(feature.PidfdThread))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS: TestDescriptors") {
		t.Errorf("%v\n%s", err, out)
	}
}
