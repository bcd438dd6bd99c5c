package emul_test

import (
	"testing"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
	"github.com/lxbridge/lx/devices/usb/usbtest"
)

func TestContract(t *testing.T) {
	usbtest.Run(t, func(_ *testing.T, d *emul.Device) usb.Device { return d })
}
