// Package remote knows where devices of other machines are, and the way there.
package remote

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/lxbridge/lx/devices/usb/secure"
	"github.com/lxbridge/lx/devices/usb/usbip"
)

// The ways to a server.
const (
	Plain  = "usbip" // neither encrypted nor authenticated
	Paired = "lx"    // TLS, with machines that were paired
	SSH    = "ssh"   // ssh(1), by the user's own configuration
)

// Address is a server's, and a device's where BusID is not empty.
type Address struct {
	Scheme           string
	User, Host, Port string // User of SSH only; Port may be empty with SSH, whose configuration then says
	BusID            string
}

// Parse reads SCHEME://HOST[:PORT][/BUSID]; without a scheme it is Plain.
func Parse(text string) (Address, error) {
	bad := func(why error) (Address, error) {
		return Address{}, fmt.Errorf("cannot read the address %q: %w; expected usbip://HOST[:PORT]/BUSID, or lx:// or ssh:// with it", text, why)
	}
	if !strings.Contains(text, "://") {
		if strings.Count(text, ":") > 1 && !strings.HasPrefix(text, "[") {
			text = "[" + text + "]" // IPv6
		}
		text = Plain + "://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return bad(errors.Unwrap(err))
	}
	a := Address{Scheme: u.Scheme, Host: u.Hostname(), Port: u.Port(), BusID: strings.TrimPrefix(u.Path, "/")}
	switch {
	case a.Scheme != Plain && a.Scheme != Paired && a.Scheme != SSH:
		return bad(fmt.Errorf("there is no %s://", a.Scheme))
	case !isHost(a.Host) || u.RawQuery != "" || u.Fragment != "":
		return bad(errors.New("there is no host in it, or more"))
	case a.BusID != "" && !isName(a.BusID) || len(a.BusID) > 31:
		return bad(errors.New("behind the host is no bus id, or more"))
	}
	if u.User != nil {
		if _, secret := u.User.Password(); secret || a.Scheme != SSH || !isName(u.User.Username()) {
			return bad(errors.New("only ssh:// has a user, and none has a password"))
		}
		a.User = u.User.Username()
	}
	switch {
	case a.Port != "":
		if n, err := strconv.ParseUint(a.Port, 10, 16); err != nil || n == 0 {
			return bad(errors.New("the port is none"))
		}
	case a.Scheme == Plain:
		a.Port = strconv.Itoa(usbip.DefaultPort)
	case a.Scheme == Paired:
		a.Port = secure.DefaultPort
	}
	return a, nil
}

// isName says whether s is of letters, digits, and what else names are made of, and
// is no option of a program's.
func isName(s string) bool {
	return s != "" && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	})
}

func isHost(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Zone() == "" || isName(a.Zone())
	}
	return isName(s)
}

// String is the address, whole.
func (a Address) String() string {
	u := url.URL{Scheme: a.Scheme, Host: a.Host}
	if strings.Contains(a.Host, ":") {
		u.Host = "[" + a.Host + "]"
	}
	if a.Port != "" {
		u.Host = net.JoinHostPort(a.Host, a.Port)
	}
	if a.User != "" {
		u.User = url.User(a.User)
	}
	if a.BusID != "" {
		u.Path = "/" + a.BusID
	}
	return u.String()
}

// Dialer is the way to the server. keys is asked where the way is Paired.
func (a Address) Dialer(keys func() (*secure.Store, error)) (usbip.Dialer, error) {
	switch a.Scheme {
	case Paired:
		store, err := keys()
		if err != nil {
			return nil, err
		}
		return store.Dial(a.Host, a.Port), nil
	case SSH:
		destination := a // ssh(1) reads such a URI itself
		destination.BusID = ""
		return usbip.SSH(destination.String()), nil
	}
	return usbip.TCP(net.JoinHostPort(a.Host, a.Port)), nil
}
