package usbfs

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/usbtest"
)

// BenchmarkIoctl is what any ioctl costs through FUSE; the others are to be seen beside it.
func BenchmarkIoctl(b *testing.B) {
	n := newWorld(b).open(os.O_RDWR)
	for b.Loop() {
		if _, errno := n.ioctl(ioGetSpeed, nil, 0); errno != 0 {
			b.Fatal(errno)
		}
	}
}

func BenchmarkControl(b *testing.B) {
	n := newWorld(b).open(os.O_RDWR)
	buf := make([]byte, 18)
	for b.Loop() {
		if _, errno := n.control(usb.DirIn, usb.ReqGetDescriptor, usb.DescDevice<<8, buf); errno != 0 {
			b.Fatal(errno)
		}
	}
}

// BenchmarkBulk submits and reaps URBs, depth at a time, of a device in the same process.
func BenchmarkBulk(b *testing.B) {
	for _, ep := range []usb.Address{usbtest.Source, usbtest.Sink} {
		for _, size := range []int{16 << 10, 256 << 10} {
			for _, depth := range []int{1, 16} {
				b.Run(fmt.Sprintf("%#x/%dKiB/%d", uint8(ep), size>>10, depth), func(b *testing.B) {
					n := newWorld(b).open(os.O_RDWR)
					b.SetBytes(int64(size))
					urbs := make([]*urb, depth)
					for i := range urbs {
						urbs[i] = &urb{kind: typeBulk, endpoint: uint8(ep)}
						if errno := n.submit(urbs[i], make([]byte, size)); errno != 0 {
							b.Fatal(errno)
						}
					}
					for b.Loop() {
						u, errno := n.reap(ioReapURB)
						if errno != 0 || u.status != 0 || int(u.actual) != size {
							b.Fatal(errno, u)
						}
						if _, errno := n.ioctl(ioSubmitURB, unsafe.Pointer(u), 56); errno != 0 {
							b.Fatal(errno)
						}
					}
					runtime.KeepAlive(urbs) // which only the file system knows meanwhile
				})
			}
		}
	}
}
