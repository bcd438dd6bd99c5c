package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/keytab"
)

// Where Kerberos keeps what tickets are had with (krb5.conf(5), kinit(1)).
const (
	kerberosConfig = "/etc/krb5.conf"
	kerberosKeytab = "/etc/krb5.keytab"
	kerberosCache  = "/tmp/krb5cc_%d"

	maxKerberosFile = 64 << 10
)

// kerberos gets tickets with the credential cache of one of uids, else with
// the machine's keytab, as rpc.gssd(8) does. read reads a file as who mounts.
// The distribution centre is asked from the broker's own network.
func kerberos(read func(path string) ([]byte, error), uids ...uint32) (*client.Client, error) {
	text, err := read(kerberosConfig)
	if err != nil {
		return nil, fmt.Errorf("cannot read how Kerberos is set up: %w", err)
	}
	conf, err := config.NewFromString(string(text))
	if err != nil {
		return nil, fmt.Errorf("cannot understand %s: %w", kerberosConfig, err)
	}
	for _, uid := range uids {
		name := fmt.Sprintf(kerberosCache, uid)
		text, err := read(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var c *client.Client
		if err == nil {
			c, err = fromCache(text, conf)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot use the credential cache %s: %w", name, err)
		}
		return c, nil
	}
	text, err = read(kerberosKeytab)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("there are no tickets: type  kinit  first: %w", syscall.ENOKEY)
	}
	var c *client.Client
	if err == nil {
		c, err = fromKeytab(text, conf)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use the keys in %s: %w", kerberosKeytab, err)
	}
	return c, nil
}

// fromCache and fromKeytab parse files of a guest's with a library that does
// not check every length: a malformed one is an error here, not the broker's end.
func fromCache(text []byte, conf *config.Config) (c *client.Client, err error) {
	defer malformed(&err)
	var cache credentials.CCache
	if err := cache.Unmarshal(text); err != nil {
		return nil, err
	}
	return client.NewFromCCache(&cache, conf, client.DisablePAFXFAST(true))
}

func fromKeytab(text []byte, conf *config.Config) (c *client.Client, err error) {
	defer malformed(&err)
	keys := keytab.New()
	if err := keys.Unmarshal(text); err != nil {
		return nil, err
	}
	for _, service := range []string{"nfs", "root", "host", ""} {
		for _, e := range keys.Entries {
			if p := e.Principal; service == "" || len(p.Components) > 1 && p.Components[0] == service {
				return client.NewWithKeytab(strings.Join(p.Components, "/"), p.Realm, keys, conf, client.DisablePAFXFAST(true)), nil
			}
		}
	}
	return nil, errors.New("it has none")
}

func malformed(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("it is malformed: %v", p)
	}
}

// tickets is kerberos for the thread that mounts: by its uid as guests have
// it, and as the host does.
func (n *network) tickets(ctx context.Context) (*client.Client, error) {
	ids, err := n.thread.IDs()
	if err != nil {
		return nil, err
	}
	uids := []uint32{ids.UID}
	maps, err := hostIDs()
	if err != nil {
		return nil, err
	}
	if host, ok := maps.uid.out(ids.UID); ok && host != ids.UID {
		uids = append(uids, host)
	}
	return kerberos(func(path string) ([]byte, error) { return n.thread.ReadFile(ctx, path, maxKerberosFile) }, uids...)
}
