// Package api is the client's side of the broker's HTTP interface, version 1:
// JSON over a connection that the keeper hands to the broker.
package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/mount"
)

// Client speaks with the broker of one environment.
type Client struct{ http http.Client }

// New makes a client; nothing is connected before the first call.
func New(d env.Dirs, name string) *Client {
	return &Client{http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return env.Dial(ctx, d, name, env.ToBroker)
		},
	}}}
}

// Mounts lists what the environment has mounted.
func (c *Client) Mounts(ctx context.Context) ([]mount.Info, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://lx/v1/mounts", nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot list mounts: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return nil, fmt.Errorf("cannot list mounts: %s: %s", resp.Status, b)
	}
	var infos []mount.Info
	if err := json.NewDecoder(resp.Body).Decode(&infos); err != nil {
		return nil, fmt.Errorf("cannot list mounts: %w", err)
	}
	return infos, nil
}
