package mount

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/keytab"

	"github.com/lxbridge/lx/mount/nfs/rpc/gss"
)

// Where Kerberos keeps what tickets are had with (krb5.conf(5), kinit(1)).
const (
	kerberosConfig = "/etc/krb5.conf"
	kerberosKeytab = "/etc/krb5.keytab"
	kerberosCache  = "/tmp/krb5cc_%d"

	maxKerberosFile = 64 << 10
)

// caches are the files that may have tickets: what variable, the caller's
// KRB5CCNAME, names, if that is a file (krb5_cc_resolve), else those of uids.
func caches(variable string, uids []uint32) (names []string) {
	if path := strings.TrimPrefix(variable, "FILE:"); strings.HasPrefix(path, "/") {
		return []string{path}
	}
	for _, uid := range uids {
		names = append(names, fmt.Sprintf(kerberosCache, uid))
	}
	return names
}

// kerberos gets tickets with a credential cache, else with the machine's
// keytab, as rpc.gssd(8) does. read reads a file as who mounts.
func kerberos(read func(path string) ([]byte, error), variable string, uids ...uint32) (*gss.Tickets, error) {
	text, err := read(kerberosConfig)
	if err != nil {
		return nil, fmt.Errorf("cannot read how Kerberos is set up: %w", err)
	}
	conf, err := parseConfig(string(text))
	if err != nil {
		return nil, fmt.Errorf("cannot understand %s: %w", kerberosConfig, err)
	}
	for _, name := range caches(variable, uids) {
		text, err := read(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var c *gss.Tickets
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
	var c *gss.Tickets
	if err == nil {
		c, err = fromKeytab(text, conf)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use the keys in %s: %w", kerberosKeytab, err)
	}
	return c, nil
}

// errMalformed stands for the library's own words, which may have keys in them.
var errMalformed = errors.New("it is malformed")

// parseConfig, fromCache and fromKeytab parse files of a guest's with a library
// that does not check every length: a malformed one is an error here, not the broker's end.
func parseConfig(text string) (c *config.Config, err error) {
	defer malformed(&err)
	return config.NewFromString(text)
}

func fromCache(text []byte, conf *config.Config) (c *gss.Tickets, err error) {
	defer malformed(&err)
	if !wellFormedCache(text) {
		return nil, errMalformed
	}
	var cache credentials.CCache
	if cache.Unmarshal(text) != nil {
		return nil, errMalformed
	}
	return gss.FromCache(&cache, conf)
}

// cursor walks a credential cache and knows when it ends.
type cursor struct {
	rest []byte
	bad  bool
}

func (c *cursor) take(n uint64) []byte {
	if n > uint64(len(c.rest)) {
		c.rest, c.bad = nil, true
		return make([]byte, 4)
	}
	p := c.rest[:n]
	c.rest = c.rest[n:]
	return p
}

func (c *cursor) number() uint64 { return uint64(binary.BigEndian.Uint32(c.take(4))) }
func (c *cursor) data()          { c.take(c.number()) }

// each walks over a counted list.
func (c *cursor) each(skip uint64) {
	for n := c.number(); n > 0 && !c.bad; n-- {
		c.take(skip)
		c.data()
	}
}

func (c *cursor) principal() {
	c.take(4) // name type
	n := c.number()
	for c.data(); n > 0 && !c.bad; n-- { // the realm, the components
		c.data()
	}
}

// wellFormedCache says whether all lengths in a cache of version 3 or 4 are
// true (MIT Kerberos, "Credential cache file format").
func wellFormedCache(text []byte) bool {
	if len(text) < 4 || text[0] != 5 || text[1] != 3 && text[1] != 4 {
		return false
	}
	c, keyType := &cursor{rest: text[2:]}, uint64(4) // version 3 has it twice
	if text[1] == 4 {
		keyType = 2
		c.take(uint64(binary.BigEndian.Uint16(c.take(2))))
	}
	c.principal()
	for len(c.rest) > 0 {
		c.principal()
		c.principal()
		c.take(keyType)
		c.data()
		c.take(4*4 + 1 + 4) // times, is_skey, flags
		c.each(2)           // addresses
		c.each(2)           // authorization data
		c.data()
		c.data()
	}
	return !c.bad
}

func fromKeytab(text []byte, conf *config.Config) (c *gss.Tickets, err error) {
	defer malformed(&err)
	keys := keytab.New()
	if keys.Unmarshal(text) != nil {
		return nil, errMalformed
	}
	for _, service := range []string{"nfs", "root", "host", ""} {
		for _, e := range keys.Entries {
			if p := e.Principal; service == "" || len(p.Components) > 1 && p.Components[0] == service {
				return gss.FromKeytab(strings.Join(p.Components, "/"), p.Realm, keys, conf), nil
			}
		}
	}
	return nil, errors.New("it has none")
}

func malformed(err *error) {
	if recover() != nil {
		*err = errMalformed
	}
}

// tickets is kerberos for the thread that mounts: by its uid as guests have
// it, and as the host does.
func (n *network) tickets(ctx context.Context) (*gss.Tickets, error) {
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
	variable, err := n.thread.Variable(ctx, "KRB5CCNAME")
	if err != nil {
		return nil, err
	}
	t, err := kerberos(func(path string) ([]byte, error) { return n.thread.ReadFile(ctx, path, maxKerberosFile) }, variable, uids...)
	if err != nil {
		return nil, err
	}
	t.Dial = func(ctx context.Context, proto, addr string) (net.Conn, error) { return n.reach(ctx, proto, addr, 0) }
	return t, nil
}
