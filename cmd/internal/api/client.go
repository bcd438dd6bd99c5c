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
	var infos []mount.Info
	for try := 0; ; try++ {
		err := c.get(req, &infos)
		switch {
		case err == nil:
			return infos, nil
		// The broker died, and its successor answers; or the environment is
		// ending, and has no socket any more.
		case env.Gone(err) && try < tries:
		default:
			return nil, fmt.Errorf("cannot list mounts: %w", err)
		}
	}
}

// tries bounds how often a request is sent again whose broker went away.
const tries = 3

// get decodes the answer into v.
func (c *Client) get(req *http.Request, v any) error {
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("%s: %s", resp.Status, b)
	}
	return json.NewDecoder(resp.Body).Decode(v)
}
