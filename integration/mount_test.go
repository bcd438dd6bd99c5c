package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/lxbridge/lx/integration/smbtest"
)

// mounts are the ways in which mount(8) asks for a mount.
func mounts(t *testing.T) map[string]string {
	t.Helper()
	return map[string]string{
		"mount.cifs":        "mount",
		"mount(2)":          "mount -i",
		"new API":           newMount(t) + " -i",
		"2.41, mount.cifs":  newMount(t),
		"mount(2) and bare": helper("mount"),
	}
}

func TestMount(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	s.put("dir/inner", "inner\n")
	for name, mount := range mounts(t) {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := &share{Server: s.Server, w: w}
			s.credentials = w.write("credentials", "username="+s.User+"\npassword="+s.Password+"\n")
			dir := w.mkdir("mnt")
			cmd := strings.Replace(s.command(dir), "mount", mount, 1)
			w.must(cmd)
			same(t, "a file", w.must("cat "+dir+"/hello"), "hello")
			w.must("echo written > " + dir + "/new-file; mkdir " + dir + "/new-dir; rmdir " + dir + "/new-dir")
			same(t, "on the server", s.get("new-file"), "written\n")
			same(t, "findmnt", w.must("findmnt -nr -o SOURCE,FSTYPE,TARGET --mountpoint "+dir), s.source("data", "")+" fuse.lx.cifs "+dir)
			same(t, "df", w.must("df --output=source,target "+dir+" | tail -n 1 | tr -s ' '"), s.source("data", "")+" "+dir)
			if out := w.must("cat /proc/self/mountinfo /proc/mounts; " + lxPath + " version"); strings.Contains(out, s.Password) || strings.Contains(out, "credentials") {
				t.Errorf("the mount table says too much: %s", out)
			}
			same(t, "owner", w.must("stat -c %u:%g "+dir+"/hello"), "0:0")
			w.must("umount " + dir)
			same(t, "mounts after umount", w.mounted(), 0)
			same(t, "the directory below", w.must("ls "+dir), "")
			if err := os.Remove(s.Path("data") + "/new-file"); err != nil {
				t.Fatal(err)
			}
			// A directory of the share, and a name with blanks.
			w.must(strings.Replace(cmd, s.source("data", ""), s.source("data", "dir"), 1))
			same(t, "a directory of the share", w.must("cat "+dir+"/inner"), "inner")
			w.must("umount " + dir)
			odd := strings.Replace(cmd, s.source("data", ""), "'"+s.source(smbtest.Odd, "")+"'", 1)
			w.must(odd + "; touch " + dir + "/x; ls " + dir + "; findmnt -n " + dir)
			w.must("umount " + dir)
		})
	}
}

func TestRemount(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	for name, mount := range map[string]string{"mount(2)": "mount", "new API": newMount(t)} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			w := s.w
			dir := s.mount()
			w.must("echo x > " + dir + "/x")
			w.must(mount + " -o remount,ro " + dir)
			if r := w.sh("echo y > " + dir + "/x"); r.code == 0 || !strings.Contains(r.err, "Read-only file system") {
				t.Errorf("writing on what is read-only: %v", r)
			}
			if out := w.must("findmnt -nr -o OPTIONS --mountpoint " + dir); !strings.HasPrefix(out, "ro,") {
				t.Errorf("options: %s", out)
			}
			w.must(mount + " -o remount,rw " + dir + "; echo z > " + dir + "/x")
			same(t, "on the server", s.get("x"), "z\n")
			w.must(mount + " -o remount,noexec " + dir + "; cp /bin/true " + dir)
			if r := w.sh(dir + "/true"); r.code != 126 {
				t.Errorf("executing on noexec: %v", r)
			}
			w.must("umount " + dir)
		})
	}
}

func TestMountAll(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	a, b := w.mkdir("a"), w.mkdir("b")
	fstab := w.write("fstab", fmt.Sprintf("%s %s cifs %s 0 0\n%s %s cifs %s,ro,_netdev,nofail 0 0\n",
		s.source("data", ""), a, s.options(), s.source("guest", ""), b, s.options()))
	for name, mount := range map[string]string{"2.38": "mount", "2.41": newMount(t)} {
		w.must(mount + " -a -T " + fstab)
		same(t, name+": mounted", w.mounted(), 2)
		w.must(mount + " -a -T " + fstab)
		same(t, name+": mounted twice", w.mounted(), 2)
		w.must("umount " + a + " " + b)
	}
	// By the target alone.
	w.must("mount -T " + fstab + " " + a)
	same(t, "mounted", w.mounted(), 1)
}

func TestTargets(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	s.put("sub/below", "below\n")
	for name, mount := range map[string]string{"mount.cifs": "mount", "mount(2)": "mount -i", "new API": newMount(t) + " -i"} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			cmd := func(target string) string {
				return strings.Replace(s.command(target), "mount", mount, 1)
			}
			w.must("rm -rf ~/t; mkdir -p ~/t/real; ln -s real ~/t/link")
			w.must("cd ~/t && " + cmd("real") + " && cat real/hello && umount real")
			w.must("cd ~/t/real && " + cmd(".") + " && cat ~/t/real/hello && umount ~/t/real")
			w.must("cd ~/t && " + cmd("link") + " && cat real/hello && findmnt ~/t/real && umount link")
			// On a mount, and over another mount.
			w.must("cd ~/t && " + cmd("real") + " && " + cmd("real/sub") + " && cat real/sub/hello && umount real/sub && cat real/sub/below && umount real")
			w.must("cd ~/t && " + cmd("real") + " && " + cmd("real") + ",file_mode=0640 && umount real && cat real/hello && umount real")
			// In another root and another mount namespace.
			w.must("unshare -m sh -ec 'cd ~/t; " + cmd("real") + "; cat real/hello'")
			same(t, "mounts outside the namespace", w.mounted(), 0)
		})
	}
}

func TestBindMounts(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("sub/file", "file\n")
	dir := s.mount()
	w.must("mkdir ~/a ~/b; mount --bind " + dir + "/sub ~/a; cat ~/a/file; mount --rbind " + dir + " ~/b; umount " + dir)
	w.must("echo more >> ~/a/file")
	same(t, "on the server", s.get("sub/file"), "file\nmore\n")
	w.must("mount -o remount,bind,ro ~/a; ! touch ~/a/file 2>/dev/null; touch ~/b/other")
	w.must("umount ~/a ~/b")
	same(t, "mounts", w.mounted(), 0)
	dir = s.mount()
	w.must("mkdir ~/c; mount --move " + dir + " ~/c; cat ~/c/sub/file; umount ~/c")
}

func TestUmount(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	dir := s.mount()
	p := w.startOpen("sh", "-ec", "cd "+dir+"; exec 3>held; echo in; read x; echo late >&3; exec 3>&-; cat held; ls")
	p.says("in")
	r := w.sh("umount " + dir)
	if r.code != 32 || !strings.Contains(r.err, "busy") {
		t.Errorf("umount of a busy mount: %v", r)
	}
	w.must("umount -l " + dir)
	same(t, "mounts after umount -l", w.mounted(), 0)
	if _, err := p.in.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	if r := p.wait(bound); r.code != 0 || r.out != "in\nlate\nheld\n" {
		t.Errorf("what holds a detached mount: %v", r)
	}
	same(t, "on the server", s.get("held"), "late\n")

	dir = s.mount()
	p = w.startOpen("sh", "-c", "cd "+dir+"; exec 3>forced; echo in; read x; echo late >&3 || echo failed; ls || echo failed")
	p.says("in")
	r = w.sh("umount -f " + dir)
	if r.code != 32 || !strings.Contains(r.err, "busy") {
		t.Errorf("umount -f of a busy mount: %v", r)
	}
	if _, err := p.in.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	if r := p.wait(bound); strings.Count(r.out, "failed") != 2 || !strings.Contains(r.err, "rror") {
		t.Errorf("on a mount that was forced away: %v", r)
	}
	w.must("umount " + dir)
}

// TestManyMounts mounts 20 at once, and unmounts them.
func TestManyMounts(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	w.must("mkdir $(seq 20); for i in $(seq 20); do " + s.command("$i") + " & done; wait; for i in $(seq 20); do cat $i/hello; done | sort | uniq -c")
	same(t, "mounts", w.mounted(), 20)
	if out := w.lx("mounts").out; strings.Count(out, s.source("data", "")) != 20 {
		t.Errorf("lx mounts: %s", out)
	}
	w.must("for i in $(seq 20); do umount $i & done; wait")
	same(t, "mounts", w.mounted(), 0)
	same(t, "lx mounts", w.lx("mounts", "--json").out, "[]\n")
}

// TestSeenByOtherConsoles: what one console mounts the others see, and it
// outlives the console.
func TestSeenByOtherConsoles(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	dir := s.mount()
	same(t, "another console", w.must("cat "+dir+"/hello"), "hello")
	r := w.lx("--as-user", "cat", dir+"/hello")
	same(t, "as the user", r.out, "hello\n")
	if _, err := os.ReadFile(dir + "/hello"); err == nil {
		t.Error("the host sees the mount")
	}
	r = w.lx("mounts")
	if !strings.Contains(r.out, s.source("data", "")) || !strings.Contains(r.out, dir) || !strings.Contains(r.out, "connected") || strings.Contains(r.out, s.Password) {
		t.Errorf("lx mounts: %v", r)
	}
}

// TestNestedMount: an lx inside has its mounts from the outer one.
func TestNestedMount(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	dir := w.mkdir("mnt")
	same(t, "a file", w.must(lxPath+" sh -ec '"+s.command(dir)+"; cat "+dir+"/hello'"), "hello")
	same(t, "mounts outside the nested environment", w.mounted(), 0)
}

// TestShares: what the standard shares need.
func TestShares(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	dir := w.mkdir("mnt")
	mount := func(name, options string) string {
		return fmt.Sprintf("mount -t cifs '%s' %s -o %s; trap 'umount %s' EXIT; ", s.source(name, ""), dir, options, dir)
	}
	w.must(mount(smbtest.Encrypted, s.options("seal")) + "cat " + dir + "/hello")
	w.must(mount(smbtest.Data, s.options("sign", "vers=3.0")) + "cat " + dir + "/hello")
	w.must(mount(smbtest.Hidden, s.options()) + "touch " + dir + "/x")
	w.must(mount(smbtest.Guest, fmt.Sprintf("port=%d,guest", s.Port)) + "touch " + dir + "/x")
	w.must(mount(smbtest.ReadOnly, s.options()) + "cat " + dir + "/hello; ! touch " + dir + "/x 2>/dev/null")
	same(t, "given modes and owner", w.must(mount(smbtest.Data, s.options("file_mode=0640", "dir_mode=0750"))+"stat -c '%a' "+dir+"/hello "+dir), "640\n750")
}

// TestMountOutlivesItsSession: the last process ends just when the mount is
// there, and the environment stays for it.
func TestMountOutlivesItsSession(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	dir := w.mkdir("mnt")
	for range 15 {
		w.must("exec " + strings.Replace(s.command(dir), "mount", "mount -i", 1))
		same(t, "a file", w.must("cat "+dir+"/hello"), "hello")
		if r := w.lx("stop"); r.code != 0 {
			t.Fatal(r)
		}
	}
}
