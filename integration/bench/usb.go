package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
	"github.com/lxbridge/lx/devices/usb/usbip"
)

// usb measures the USB/IP client beside a bare one, which has the protocol and
// nothing else: both against one server in a process of its own, on loopback.
func (b *bench) usb(t *table) error {
	server := exec.CommandContext(b.ctx, b.self, "serve-usb")
	server.Stderr = os.Stderr
	out, err := server.StdoutPipe()
	if err != nil {
		return err
	}
	in, err := server.StdinPipe() // whose end ends it
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	defer func() { in.Close(); _ = server.Wait() }() // it has been told to end
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("the server does not start: %w", err)
	}
	address = strings.TrimSpace(address)

	amount := 1 << 30
	if b.short {
		amount = 128 << 20
	}
	var rows []row
	for _, direction := range []string{"IN", "OUT"} {
		for _, size := range []int{16 << 10, 256 << 10} {
			for _, depth := range []int{1, 16} {
				total := amount
				if depth == 1 && size < 64<<10 {
					total /= 4
				}
				args := []string{address, direction, strconv.Itoa(size), strconv.Itoa(depth), strconv.Itoa(total / size)}
				rows = append(rows, row{
					name: fmt.Sprintf("bulk %s, %d KiB, %d in flight", direction, size>>10, depth), unit: "MB/s", target: atLeast(0.8), against: 1,
					contenders: []contender{
						{"lx", b.workload(nil, "usb", append([]string{"lx"}, args...)...)},
						{"bare", b.workload(nil, "usb", append([]string{"bare"}, args...)...)},
					},
				})
			}
		}
	}
	rows = append(rows, row{
		name: "control round trip", unit: "µs", target: within(40), against: 1,
		contenders: []contender{
			{"lx", b.workload(nil, "usb", "lx", address, "control", "18", "1", "20000")},
			{"bare", b.workload(nil, "usb", "bare", address, "control", "18", "1", "20000")},
		},
	})
	t.group("USB/IP on loopback", rows)

	far, err := newLine(address, time.Millisecond)
	if err != nil {
		return err
	}
	defer far.close()
	near := far.listener.Addr().String()
	t.group("USB/IP over 1 ms, one transfer at a time", []row{{
		name: "bulk OUT, 16 KiB", unit: "MB/s", target: atLeast(5), against: 1,
		contenders: []contender{
			{"completed early", b.workload(nil, "usb", "early", near, "OUT", "16384", "1", "4000")},
			{"by default", b.workload(nil, "usb", "lx", near, "OUT", "16384", "1", "1000")},
		},
	}})
	return nil
}

func init() { workloads["usb"] = usbTransfers }

// usbTransfers moves count transfers and answers MB/s, of control requests µs.
func usbTransfers(args []string) (float64, error) {
	if len(args) != 6 {
		return 0, errors.New("expected CLIENT ADDRESS IN|OUT|control SIZE DEPTH COUNT")
	}
	var n [3]int
	for i := range n {
		var err error
		if n[i], err = strconv.Atoi(args[3+i]); err != nil {
			return 0, err
		}
	}
	size, depth, count := n[0], n[1], n[2]
	ctx := context.Background()
	dial := usbip.TCP(args[1])
	var elapsed time.Duration
	var err error
	if args[0] == "bare" {
		elapsed, err = bareTransfers(ctx, dial, args[2], size, depth, count)
	} else {
		elapsed, err = deviceTransfers(ctx, dial, args[0] == "early", args[2], size, depth, count)
	}
	if err != nil {
		return 0, err
	}
	if args[2] == "control" {
		return elapsed.Seconds() * 1e6 / float64(count), nil
	}
	return float64(size) * float64(count) / 1e6 / elapsed.Seconds(), nil
}

// deviceDescriptorRequest is GET_DESCRIPTOR of the device's.
var deviceDescriptorRequest = usb.Setup{RequestType: usb.DirIn, Request: usb.ReqGetDescriptor, Value: usb.DescDevice << 8, Length: 18}

func deviceTransfers(ctx context.Context, dial usbip.Dialer, early bool, kind string, size, depth, count int) (time.Duration, error) {
	d, err := usbip.Attach(ctx, dial, "1-1", usbip.Options{EarlyBulkOut: early})
	if err != nil {
		return 0, err
	}
	defer d.Close()
	done := make(chan *usb.URB, depth)
	begin := time.Now()
	for range depth {
		u := &usb.URB{Kind: usb.Bulk, Endpoint: 0x01, Buffer: make([]byte, size), Complete: func(u *usb.URB) { done <- u }}
		switch kind {
		case "IN":
			u.Endpoint = 0x81
		case "control":
			u.Kind, u.Endpoint, u.Setup = usb.Control, 0, deviceDescriptorRequest
		}
		if err := d.Submit(u); err != nil {
			return 0, err
		}
	}
	for i := range count {
		u := <-done
		if u.Status != 0 || u.Actual != size {
			return 0, fmt.Errorf("%d bytes: %w", u.Actual, u.Status)
		}
		if i+depth < count {
			if err := d.Submit(u); err != nil {
				return 0, err
			}
		}
	}
	return time.Since(begin), nil
}

// bare is a connection after an import.
type bare struct {
	conn net.Conn
	r    *bufio.Reader
	seq  uint32
	head [usbip.HeaderSize]byte
}

// send submits what h says, with its payload behind the room for the header.
func (c *bare) send(h usbip.Header, message []byte) error {
	c.seq++
	h.Command, h.Seq = usbip.CmdSubmit, c.seq
	h.Put((*[usbip.HeaderSize]byte)(message))
	_, err := c.conn.Write(message)
	return err
}

// receive takes an answer, and its payload to b where it has one.
func (c *bare) receive(b []byte) error {
	var h usbip.Header
	if _, err := io.ReadFull(c.r, c.head[:]); err != nil {
		return err
	}
	if err := h.Parse(&c.head); err != nil {
		return err
	}
	if h.Status != 0 {
		return fmt.Errorf("answered with status %d", h.Status)
	}
	_, err := io.ReadFull(c.r, b[:min(len(b), int(h.Length))])
	return err
}

func bareTransfers(ctx context.Context, dial usbip.Dialer, kind string, size, depth, count int) (time.Duration, error) {
	conn, err := dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	info, err := usbip.RequestImport(conn, "1-1")
	if err != nil {
		return 0, err
	}
	c := &bare{conn: conn, r: bufio.NewReaderSize(conn, 64<<10)}
	h := usbip.Header{Device: info.Bus<<16 | info.Number, Setup: [8]byte{0, usb.ReqSetConfiguration, 1}}
	message := make([]byte, usbip.HeaderSize+size)
	if err := errors.Join(c.send(h, message[:usbip.HeaderSize]), c.receive(nil)); err != nil {
		return 0, err
	}
	h.Endpoint, h.Length, h.Setup = 1, uint32(size), [8]byte{}
	var payload []byte
	if kind != "OUT" {
		h.In, payload, message = true, make([]byte, size), message[:usbip.HeaderSize]
	}
	if kind == "control" {
		h.Endpoint, h.Setup = 0, deviceDescriptorRequest.Bytes()
	}
	begin := time.Now()
	for range depth {
		if err := c.send(h, message); err != nil {
			return 0, err
		}
	}
	for i := range count {
		if err := c.receive(payload); err != nil {
			return 0, err
		}
		if i+depth < count {
			if err := c.send(h, message); err != nil {
				return 0, err
			}
		}
	}
	return time.Since(begin), nil
}

// endless is a device whose bulk transfers are done at once.
type endless struct{ *emul.Device }

// Submit implements usb.Device.
func (d endless) Submit(u *usb.URB) error {
	if u.Kind != usb.Bulk {
		return d.Device.Submit(u)
	}
	u.Status, u.Actual = 0, len(u.Buffer)
	u.Complete(u)
	return nil
}

// Close leaves the device for the next client.
func (d endless) Close() error { return d.SetConfiguration(context.Background(), 0) }

// List implements usbip.Exports.
func (d endless) List(net.Addr) []usbip.DeviceInfo { return nil }

// Open implements usbip.Exports.
func (d endless) Open(context.Context, net.Addr, string) (usbip.DeviceInfo, usb.Device, error) {
	return usbip.DeviceInfo{Path: "/lx/1-1", BusID: "1-1", Bus: 1, Number: 2, Speed: uint32(usb.SpeedSuper)}, d, nil
}

// serveUSB exports such a device until its input ends.
func serveUSB() error {
	dev, err := emul.New(emul.Spec{
		Speed:  usb.SpeedSuper,
		Device: []byte{18, usb.DescDevice, 0, 3, 0xff, 0, 0, 9, 0x6b, 0x1d, 0x01, 0x60, 0, 1, 0, 0, 0, 1},
		Configurations: [][]byte{{9, usb.DescConfiguration, 32, 0, 1, 1, 0, 0x80, 50, 9, usb.DescInterface, 0, 0, 2, 0xff, 0, 0, 0,
			7, usb.DescEndpoint, 0x81, uint8(usb.Bulk), 0, 4, 0, 7, usb.DescEndpoint, 0x01, uint8(usb.Bulk), 0, 4, 0}},
	})
	if err != nil {
		return err
	}
	defer dev.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // any end is the end
		cancel()
	}()
	return (&usbip.Server{Exports: endless{dev}, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, l)
}
