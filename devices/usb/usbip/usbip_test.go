package usbip

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
	"github.com/lxbridge/lx/devices/usb/usbtest"
)

// exports is one emulated device, which outlives its clients and is left
// unconfigured by each, as usbip-host does.
type exports struct {
	info DeviceInfo
	dev  usb.Device
	one  sync.Mutex // client at a time; others wait
}

type lease struct {
	usb.Device
	e *exports
}

func (l lease) Close() error {
	defer l.e.one.Unlock()
	_ = l.SetConfiguration(context.Background(), 0) // it may be gone
	return nil
}

func (e *exports) List(net.Addr) []DeviceInfo { return []DeviceInfo{e.info} }

func (e *exports) Open(_ context.Context, _ net.Addr, busID string) (DeviceInfo, usb.Device, error) {
	if busID != e.info.BusID {
		return DeviceInfo{}, nil, StatusNoDevice
	}
	e.one.Lock()
	return e.info, lease{e.dev, e}, nil
}

func testInfo(path string) DeviceInfo {
	return DeviceInfo{Path: path, BusID: "1-1", Bus: 1, Number: 2, Speed: uint32(usb.SpeedHigh), Vendor: 0x1d50, Product: 0x6001,
		Configurations: 1, Interfaces: []InterfaceInfo{{Class: 0xff}, {Class: 0xff, SubClass: 1}}}
}

// serve runs a server for the test's time.
func serve(t testing.TB, e Exports) Dialer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := &Server{Exports: e, Log: slog.New(slog.DiscardHandler)}
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return TCP(l.Addr().String())
}

func TestContract(t *testing.T) {
	for name, path := range map[string]string{
		"lx": PathPrefix + "1-1", "Linux": "/sys/devices/platform/dummy_hcd.0/usb1/1-1", "usbipd-win": `USB\VID_1D50&PID_6001\1`,
	} {
		t.Run(name, func(t *testing.T) {
			usbtest.Run(t, func(t *testing.T, end *emul.Device) usb.Device {
				dial := serve(t, &exports{info: testInfo(path), dev: end})
				d, err := Attach(t.Context(), dial, "1-1", Options{})
				if err != nil {
					t.Fatal(err)
				}
				if d.Profile().Name != name {
					t.Fatalf("the server is taken for %s", d.Profile().Name)
				}
				return d
			})
		})
	}
}

func TestList(t *testing.T) {
	info := testInfo("/sys/devices/x")
	dial := serve(t, &exports{info: info})
	list, err := List(t.Context(), dial)
	if err != nil || len(list) != 1 || list[0].BusID != "1-1" || len(list[0].Interfaces) != 2 || list[0].Vendor != 0x1d50 {
		t.Fatalf("%+v, %v", list, err)
	}
	if _, err := Attach(t.Context(), dial, "1-2", Options{}); !errors.Is(err, StatusNoDevice) {
		t.Fatalf("a device that is not there: %v", err)
	}
}
