// Package api is the client's side of the broker's HTTP interface, version 1:
// JSON over a connection that the keeper hands to the broker.
package api

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/mount"
)

// Client speaks with the broker of one environment, each time on a connection
// of its own.
type Client struct {
	dirs env.Dirs
	name string
}

// New makes a client; nothing is connected before the first call.
func New(d env.Dirs, name string) *Client { return &Client{d, name} }

// Mounts lists what the environment has mounted.
func (c *Client) Mounts(ctx context.Context) ([]mount.Info, error) {
	var infos []mount.Info
	if err := c.do(ctx, http.MethodGet, "/v1/mounts", &infos); err != nil {
		return nil, fmt.Errorf("cannot list mounts: %w", err)
	}
	return infos, nil
}

// RenewPolicy has the rules for the environment's ports read again, and answers
// those that count.
func (c *Client) RenewPolicy(ctx context.Context) ([]config.PortRule, error) {
	var rules []config.PortRule
	if err := c.do(ctx, http.MethodPost, "/v1/policy", &rules); err != nil {
		return nil, fmt.Errorf("cannot renew the policies of ports: %w", err)
	}
	return rules, nil
}

// tries bounds how often a request is sent again whose broker went away.
const tries = 4

// do decodes the answer into v. Where the broker went away its successor is
// asked; where the environment is ending there is soon none to ask.
func (c *Client) do(ctx context.Context, method, path string, v any) error {
	for try := 1; ; try++ {
		err := c.ask(ctx, method, path, v)
		if !env.Gone(err) || try == tries {
			return err
		}
	}
}

func (c *Client) ask(ctx context.Context, method, path string, v any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://lx"+path, nil)
	if err != nil {
		return err
	}
	req.Close = true
	conn, err := env.Dial(ctx, c.dirs, c.name, env.ToBroker)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := exchange(conn, req, v); err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	return nil
}

func exchange(conn net.Conn, req *http.Request, v any) error {
	if err := req.Write(conn); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return errors.Join(fmt.Errorf("%s: %s", resp.Status, b), err)
	}
	return json.NewDecoder(resp.Body).Decode(v)
}
