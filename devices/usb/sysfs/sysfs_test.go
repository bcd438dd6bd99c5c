package sysfs

import (
	"context"
	"path"
	"strings"
	"syscall"
	"testing"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/devices/usb/emul"
	"github.com/lxbridge/lx/devices/usb/host"
	"github.com/lxbridge/lx/devices/usb/usbtest"
)

func attach(t *testing.T) (*FS, *host.Device) {
	t.Helper()
	h, err := host.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	gadget, err := emul.New(usbtest.Gadget())
	if err != nil {
		t.Fatal(err)
	}
	d, err := h.Attach(t.Context(), gadget, 0)
	if err != nil {
		t.Fatal(err)
	}
	return New(h, false), d
}

// walk finds all paths, and what they are, as the kernel does.
func walk(t *testing.T, f *FS) map[string]fuse.Entry {
	t.Helper()
	found := map[string]fuse.Entry{}
	var visit func(id uint64, at string)
	visit = func(id uint64, at string) {
		var names sink
		if errno := f.ReadDir(t.Context(), id, 0, 0, &names); errno != 0 {
			t.Fatalf("%s: %v", at, errno)
		}
		for _, name := range names {
			e, errno := f.Lookup(t.Context(), id, name)
			if errno != 0 {
				t.Fatalf("%s/%s: %v", at, name, errno)
			}
			found[at+"/"+name] = e
			if e.Attr.Mode&syscall.S_IFMT == syscall.S_IFDIR {
				visit(e.Node, at+"/"+name)
			}
		}
	}
	visit(fuse.RootID, "")
	return found
}

type sink []string

func (s *sink) Add(e fuse.DirEntry) bool {
	*s = append(*s, e.Name)
	return true
}

func read(t *testing.T, f *FS, e fuse.Entry) string {
	t.Helper()
	b := make([]byte, 8192)
	n, errno := f.Read(t.Context(), e.Node, 0, 0, b)
	if errno != 0 {
		t.Fatal(errno)
	}
	return string(b[:n])
}

func TestAttributes(t *testing.T) {
	f, d := attach(t)
	found := walk(t, f)
	const at = "/devices/lx-hcd.0/usb200/200-1/"
	for name, want := range map[string]string{
		"idVendor": "1d50\n", "idProduct": "6001\n", "speed": "480\n", "version": " 2.00\n", "dev": "189:25473\n", "busnum": "200\n", "devnum": "2\n",
		"bConfigurationValue": "1\n", "bNumInterfaces": " 2\n", "bMaxPower": "100mA\n", "bmAttributes": "80\n",
		"manufacturer": "lx\n", "serial": "0001\u00df\n", "descriptors": string(d.Raw()),
		"uevent":                     "MAJOR=189\nMINOR=25473\nDEVNAME=bus/usb/200/002\nDEVTYPE=usb_device\nDRIVER=usb\nPRODUCT=1d50/6001/1234\nTYPE=255/0/0\nBUSNUM=200\nDEVNUM=002\n",
		"200-1:1.0/interface":        "data\n",
		"200-1:1.0/bInterfaceClass":  "ff\n",
		"200-1:1.0/modalias":         "usb:v1D50p6001d1234dcFFdsc00dp00icFFisc00ip00in00\n",
		"200-1:1.0/ep_82/type":       "Bulk\n",
		"200-1:1.0/ep_82/interval":   "0ms\n",
		"200-1:1.0/ep_83/interval":   "1ms\n",
		"200-1:1.1/bNumEndpoints":    "00\n",
		"../200-0:1.0/ep_81/type":    "Interrupt\n",
		"../bDeviceClass":            "09\n",
		"ep_00/direction":            "both\n",
		"200-1:1.0/ep_01/direction":  "out\n",
		"../../usb201/speed":         "5000\n",
		"../../usb201/idProduct":     "0003\n",
		"200-1:1.0/bInterfaceNumber": "00\n",
	} {
		e, ok := found[path.Join(at, name)]
		if !ok {
			t.Errorf("%s is not there", name)
		} else if got := read(t, f, e); got != want {
			t.Errorf("%s: %q, expected %q", name, got, want)
		}
	}
}

// Every link leads to what is there, seen from where the parts are mounted.
func TestLinks(t *testing.T) {
	f, d := attach(t)
	if err := d.Claim(nobody{}, 0); err != nil {
		t.Fatal(err)
	}
	found := walk(t, f)
	links := 0
	for p, e := range found {
		if e.Attr.Mode&syscall.S_IFMT != syscall.S_IFLNK {
			continue
		}
		target, errno := f.Readlink(t.Context(), e.Node)
		if errno != 0 {
			t.Fatal(errno)
		}
		to := path.Join("/sys", path.Dir(p), target)
		if _, ok := found[strings.TrimPrefix(to, "/sys")]; !ok && !strings.HasPrefix(to, "/sys/bus/platform") {
			t.Errorf("%s leads to %s, which is not there", p, to)
		}
		links++
	}
	for _, name := range []string{"usb200", "200-1", "200-1:1.0", "200-0:1.0"} {
		if _, ok := found["/bus/usb/devices/"+name]; !ok {
			t.Errorf("no link to %s", name)
		}
	}
	if target, _ := f.Readlink(t.Context(), found["/devices/lx-hcd.0/usb200/200-1/200-1:1.0/driver"].Node); path.Base(target) != "usbfs" {
		t.Errorf("a claimed interface's driver is %q", target)
	}
	if _, ok := found["/devices/lx-hcd.0/usb200/200-1/200-1:1.1/driver"]; ok || links < 20 {
		t.Errorf("%d links, a driver where none is: %v", links, ok)
	}
}

type nobody struct{}

func (nobody) Released(uint8) {}

func TestConfigure(t *testing.T) {
	f, d := attach(t)
	at := walk(t, f)["/devices/lx-hcd.0/usb200/200-1/bConfigurationValue"]
	write := func(text string) syscall.Errno {
		_, errno := f.Write(context.Background(), at.Node, 0, 0, []byte(text), 0)
		return errno
	}
	if errno := write("0\n"); errno != 0 || d.Active() != nil || read(t, f, at) != "" {
		t.Errorf("unconfigured: %v, %q", errno, read(t, f, at))
	}
	if _, ok := walk(t, f)["/devices/lx-hcd.0/usb200/200-1/200-1:1.0"]; ok {
		t.Error("an unconfigured device shows an interface")
	}
	for text, want := range map[string]syscall.Errno{"7": syscall.EINVAL, "x": syscall.EINVAL, "300": syscall.EINVAL, "1": 0} {
		if errno := write(text); errno != want {
			t.Errorf("%q: %v, expected %v", text, errno, want)
		}
	}
	if _, errno := f.Write(t.Context(), walk(t, f)["/devices/lx-hcd.0/usb200/speed"].Node, 0, 0, []byte("12"), 0); errno != syscall.EACCES {
		t.Errorf("writing what cannot be written: %v", errno)
	}
	if err := d.Detach(); err != nil {
		t.Fatal(err)
	}
}
