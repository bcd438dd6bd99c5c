package usbip

import (
	"context"
	"log/slog"
	"net"
	"os"
	"testing"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
	"github.com/lxbridge/lx/devices/usb/usbtest"
)

// TestMain is also the server that TestProgram runs.
func TestMain(m *testing.M) {
	if os.Getenv("LX_TEST_SERVER") == "" {
		os.Exit(m.Run())
	}
	end, err := emul.New(usbtest.Gadget())
	if err != nil {
		panic(err)
	}
	conn, err := net.FileConn(os.Stdin)
	if err != nil {
		panic(err)
	}
	s := &Server{Exports: &exports{info: testInfo("/lx/1-1"), dev: end}, Log: slog.New(slog.DiscardHandler)}
	s.ServeConn(context.Background(), conn)
}

// TestProgram attaches to a program's standard input and output, as ssh's are.
func TestProgram(t *testing.T) {
	t.Setenv("LX_TEST_SERVER", "1")
	d, err := Attach(t.Context(), Program("/proc/self/exe"), "1-1", Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := d.link.Load().conn.Conn.(*program)
	u := bulk(usbtest.Source, 512)
	if err := usb.Do(t.Context(), d, u); err != nil || u.Actual != 512 {
		t.Errorf("%d bytes, %v", u.Actual, err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if p.cmd.ProcessState == nil {
		t.Error("the program still runs")
	}
	if _, err := Attach(t.Context(), Program("/nonexistent"), "1-1", Options{}); err == nil {
		t.Error("a program that is not there is attached to")
	}
}
