package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/devices/usb/usbtest"
	"github.com/lxbridge/lx/integration/farm"
)

// lxdev runs lxdev outside, as the user.
func (w *world) lxdev(args ...string) result {
	w.t.Helper()
	cmd := exec.CommandContext(context.Background(), lxdevPath, args...)
	cmd.Env, cmd.Dir = w.env, w.path("home")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: runAs.credential}
	return w.startCommand(cmd).wait(bound)
}

// dev is lxdev that has to succeed.
func (w *world) dev(args ...string) string {
	w.t.Helper()
	r := w.lxdev(args...)
	if r.code != 0 {
		w.t.Fatalf("lxdev %v: %v", args, r)
	}
	return r.out
}

// device is a line of lxdev status.
type device struct{ Address, State, Name, Serial string }

// attached is what lxdev tells of an address.
func (w *world) attached(address string) (device, error) {
	w.t.Helper()
	var s struct{ Devices []device }
	if err := json.Unmarshal([]byte(w.dev("status", "--json")), &s); err != nil {
		return device{}, err
	}
	for _, d := range s.Devices {
		if d.Address == address {
			return d, nil
		}
	}
	return device{}, fmt.Errorf("%s is not attached: %+v", address, s.Devices)
}

// newFarm serves a farm and answers what its addresses begin with.
func newFarm(t *testing.T, face farm.Face) (*farm.Farm, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := farm.New(face)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- f.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		f.Close()
	})
	return f, "usbip://" + l.Addr().String() + "/"
}

// random are n bytes that are the same each time.
func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

// TestDevices has unmodified programs use devices of another machine.
func TestDevices(t *testing.T) {
	t.Parallel()
	f, at := newFarm(t, farm.Linux)
	phone, dfu, adb := &farm.Fastboot{Serial: "FB0001"}, &farm.DFU{Serial: "DFU0001"}, &farm.ADB{Serial: "ADB0001", Shell: func(command string) []byte { return []byte("ran " + command) }}
	if err := errors.Join(f.Plug("1-1", phone.Spec()), f.Plug("1-2", dfu.Spec()), f.Plug("1-3", adb.Spec())); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	t.Cleanup(func() { w.dev("stop") })
	w.hold() // an environment that runs when the first device comes
	for _, port := range []string{"1-1", "1-2", "1-3"} {
		w.dev("attach", at+port)
	}
	image := random(3<<20 + 7)
	if err := os.WriteFile(w.path("home/image"), image, 0o644); err != nil {
		t.Fatal(err)
	}

	t.Run("lsusb", func(t *testing.T) {
		w := w.in(t)
		out := w.must("lsusb; lsusb -t; lsusb -v; usb-devices")
		for _, want := range []string{"Bus 200 Device 002: ID 18d1:4ee0", "Dev 2, If 0", "iSerial                 3 FB0001", "SerialNumber=DFU0001", "Bus 201 Device 001: ID 1d6b:0003"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is not in\n%s", want, out)
			}
		}
	})
	if _, err := os.Stat("/dev/bus/usb/200"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the machine's own /dev was changed: %v", err)
	}
	t.Run("fastboot", func(t *testing.T) {
		w := w.in(t)
		if out := w.must("fastboot devices"); !strings.Contains(out, "FB0001") {
			t.Errorf("fastboot sees %q", out)
		}
		w.must("fastboot flash boot image 2>&1")
		if !bytes.Equal(phone.Partition("boot_a"), image) {
			t.Error("the phone got other bytes")
		}
	})
	t.Run("dfu-util", func(t *testing.T) {
		w := w.in(t)
		w.must("head -c 100000 image >firmware; dfu-util -d 1d6b:0139 -D firmware; dfu-util -d 1d6b:0139 -U back; head -c 100000 back | cmp - firmware")
		if !bytes.HasPrefix(dfu.Firmware(), image[:100000]) {
			t.Error("the device got other bytes")
		}
	})
	t.Run("adb", func(t *testing.T) {
		w := w.in(t)
		// Not adb push: version 29 with libusb was seen to fail where a piece is whole packets.
		out := w.must("adb start-server 2>&1; adb -s ADB0001 wait-for-device; adb devices; adb -s ADB0001 shell id; adb kill-server")
		if !strings.Contains(out, "ADB0001\tdevice") || !strings.Contains(out, "ran id") {
			t.Errorf("adb: %s", out)
		}
	})
	t.Run("imported", func(t *testing.T) {
		w := w.in(t)
		w.ok("import", "tiny", w.rootTar())
		got := w.ok("-d", "tiny", "sh", "-c", "ls /dev/bus/usb/200 | wc -l; cat /sys/bus/usb/devices/200-1/serial; ls /dev/bus/usb")
		if got != "4\nFB0001\n200\n201" {
			t.Errorf("an imported environment sees %q", got)
		}
		w.ok("stop", "tiny")
	})
	t.Run("broker killed", func(t *testing.T) {
		w := w.in(t)
		holder := w.startOpen("sh", "-c", "exec 3<>/dev/bus/usb/200/002; echo open; read x; head -c 2 <&3 | wc -c")
		holder.says("open")
		if err := syscall.Kill(w.broker(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		w.must("fastboot getvar product 2>&1 | grep -q product:")
		if _, err := holder.in.WriteString("\n"); err != nil {
			t.Fatal(err)
		}
		if r := holder.wait(bound); r.out != "open\n2\n" {
			t.Errorf("an open device after the broker's end: %v", r)
		}
	})
	t.Run("replugged", func(t *testing.T) {
		w := w.in(t)
		again := &farm.Fastboot{Serial: "FB0002"}
		if err := f.Plug("1-1", again.Spec()); err != nil {
			t.Fatal(err)
		}
		eventually(t, bound, func() error {
			d, err := w.attached(at + "1-1")
			if err == nil && (d.Serial != "FB0002" || d.Name != "200-1") {
				err = fmt.Errorf("%+v", d)
			}
			return err
		})
		w.must("fastboot devices | grep -q FB0002; test ! -e /dev/bus/usb/200/002")
	})
	t.Run("detached", func(t *testing.T) {
		w := w.in(t)
		w.dev("detach", at+"1-2")
		if out := w.must("lsusb"); strings.Contains(out, "1d6b:0139") {
			t.Errorf("what was detached is seen: %s", out)
		}
		if r := w.lxdev("detach", at+"1-2"); r.code != 1 || !strings.Contains(r.err, "nothing is attached") {
			t.Errorf("detached once more: %v", r)
		}
	})
	t.Run("hub killed", func(t *testing.T) {
		w := w.in(t)
		hub, err := listener(w.path("run/lx/hub.sock"))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(hub, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, bound, func() error { // as if all had been unplugged
			if r := w.sh("lsusb"); r.code != 1 || strings.Contains(r.out, "ID") {
				return fmt.Errorf("%v", r)
			}
			return nil
		})
		w.dev("attach", at+"1-1")
		w.must("fastboot devices | grep -q FB0002")
	})
}

// TestDevicesStress has a libusb program keep a device busy, die amid it, and do it again.
func TestDevicesStress(t *testing.T) {
	f, at := newFarm(t, farm.Linux)
	if err := f.Plug("1-1", usbtest.Gadget()); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	t.Cleanup(func() { w.dev("stop") })
	source, err := os.ReadFile("testdata/usbstress.c")
	if err != nil {
		t.Fatal(err)
	}
	w.write("home/usbstress.c", string(source))
	w.dev("attach", at+"1-1")
	w.must("gcc -o usbstress usbstress.c -lusb-1.0")
	w.must("./usbstress 1d50 6001 2")
	if r := w.sh("exec ./usbstress 1d50 6001 1 kill"); r.code != 128+int(syscall.SIGKILL) {
		t.Errorf("killed amid its transfers: %v", r)
	}
	w.must("./usbstress 1d50 6001 1")

	// A server that notices late that a device was given back.
	f, at = newFarm(t, farm.Windows)
	if err := f.Plug("1-1", usbtest.Gadget()); err != nil {
		t.Fatal(err)
	}
	w.dev("detach", "200-1")
	w.dev("attach", at+"1-1")
	w.must("for i in 1 2 3 4 5; do usbreset 1d50:6001 || exit; done")
}

func TestDevicesRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	t.Cleanup(func() { w.dev("stop") })
	_, at := newFarm(t, farm.Windows)
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"attach", at + "7-7"}, 1, "no such device"},
		{[]string{"attach", "usbip://127.0.0.1:1/1-1"}, 1, "refused"},
		{[]string{"attach", "http://lab/1-1"}, 1, "expected usbip://"},
		{[]string{"attach"}, 2, "wants usbip://"},
		{[]string{"attach", "-r", "lab"}, 2, "-b BUSID"},
		{[]string{"list"}, 2, "needs one"},
		{[]string{"detach", "200-1"}, 1, "nothing is attached"},
	} {
		start := time.Now()
		if r := w.lxdev(tt.args...); r.code != tt.code || !strings.Contains(r.err, tt.says) || time.Since(start) > 20*time.Second {
			t.Errorf("lxdev %v: %v; expected %d and %q", tt.args, r, tt.code, tt.says)
		}
	}
}
