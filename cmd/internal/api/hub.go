package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/lxbridge/lx/cmd/internal/owner"
	"github.com/lxbridge/lx/core/env"
)

// RoleHub is what the device hub is started as.
const RoleHub = "lx-hub"

// DeviceState is where an attachment is.
type DeviceState string

// An attachment stays until it is detached; a device that has gone is looked for.
const (
	DeviceAttached DeviceState = "attached"
	DeviceAway     DeviceState = "away"
)

// Device is an attachment, with the device where it is there.
type Device struct {
	Address string      `json:"address"` // as it was attached
	State   DeviceState `json:"state"`
	Since   time.Time   `json:"since"`
	Error   string      `json:"error,omitempty"` // why it is away
	Times   int         `json:"times"`           // how often it has come

	Name         string `json:"name,omitempty"` // in sysfs
	Bus          int    `json:"bus,omitempty"`
	Number       int    `json:"number,omitempty"`
	Vendor       string `json:"vendor,omitempty"` // four hexadecimal digits
	Product      string `json:"product,omitempty"`
	Manufacturer string `json:"manufacturer,omitempty"`
	ProductName  string `json:"productName,omitempty"`
	Serial       string `json:"serial,omitempty"`
	Speed        string `json:"speed,omitempty"` // Mbit/s
}

// AttachOptions say what to attach, and how.
type AttachOptions struct {
	Address string `json:"address"`
	// EarlyOut lets a program that sends bulk data a piece at a time go on before
	// the device has it.
	EarlyOut bool `json:"earlyOut,omitempty"`
}

// HubStatus is the hub itself.
type HubStatus struct {
	API          int       `json:"api"`
	Version      string    `json:"version"` // of lx
	PID          int       `json:"pid"`
	Started      time.Time `json:"started"`
	Environments []string  `json:"environments"` // in which its devices are seen
}

// Hub is a client of the user's device hub.
type Hub struct{ http http.Client }

// DialHub makes a client of the hub; ErrNotRunning where there is none.
func DialHub(ctx context.Context, d env.Dirs) (*Hub, error) {
	c, err := env.DialHub(ctx, d)
	if err != nil {
		return nil, err
	}
	c.Close()
	return &Hub{http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return env.DialHub(ctx, d)
		},
	}}}, nil
}

// ConnectHub is DialHub, after it has started the hub if need be. Several callers at
// once start one.
func ConnectHub(ctx context.Context, d env.Dirs) (*Hub, error) {
	if h, err := DialHub(ctx, d); !errors.Is(err, env.ErrNotRunning) {
		return h, err
	}
	unlock, err := env.LockStart(ctx, d, env.HubName)
	if err != nil {
		return nil, fmt.Errorf("cannot start the device hub: %w", err)
	}
	defer unlock()
	if h, err := DialHub(ctx, d); !errors.Is(err, env.ErrNotRunning) {
		return h, err
	}
	if err := owner.Detach(ctx, d, env.HubName, RoleHub, d.Log(env.HubName)); err != nil {
		return nil, fmt.Errorf("cannot start the device hub: %w", err)
	}
	return DialHub(ctx, d)
}

// StopHub ends the hub, and all attachments, and returns when it is gone. It succeeds
// where there is none.
func StopHub(ctx context.Context, d env.Dirs) error {
	h, err := DialHub(ctx, d)
	if errors.Is(err, env.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, _ := d.Process(env.HubName)
	if err := h.call(ctx, http.MethodDelete, "hub", nil, nil); err != nil {
		return err
	}
	return d.Ended(ctx, env.HubName, pid)
}

// Status asks who the hub is.
func (h *Hub) Status(ctx context.Context) (s HubStatus, err error) {
	return s, h.call(ctx, http.MethodGet, "hub", nil, &s)
}

// Devices lists the attachments.
func (h *Hub) Devices(ctx context.Context) (list []Device, err error) {
	return list, h.call(ctx, http.MethodGet, "devices", nil, &list)
}

// Attach attaches a device, and returns when all running environments see it.
func (h *Hub) Attach(ctx context.Context, o AttachOptions) (d Device, err error) {
	return d, h.call(ctx, http.MethodPost, "devices", o, &d)
}

// Detach ends the attachment of an address, or of the device of that name.
func (h *Hub) Detach(ctx context.Context, what string) error {
	return h.call(ctx, http.MethodDelete, "devices/"+url.PathEscape(what), nil, nil)
}

// Enter returns when the environment, which runs, sees the hub's devices.
func (h *Hub) Enter(ctx context.Context, name string) error {
	return h.call(ctx, http.MethodPost, environment(name, "devices"), nil, nil)
}

func (h *Hub) call(ctx context.Context, method, path string, in, out any) error {
	req, err := request(ctx, method, path, in)
	if err != nil {
		return err
	}
	resp, err := h.http.Do(req)
	return decode(resp, err, "the device hub", out)
}
