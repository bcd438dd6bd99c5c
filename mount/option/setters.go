package option

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// value is an option's value and the name under which it came.
type value struct{ name, text string }

// setters are what takes each option that the table calls honoured, and the
// inherent ones that refuse some values, by the first of their names.
var setters = map[string]func(*CIFS, value) error{
	"source": func(o *CIFS, v value) (err error) {
		o.Source = v.text
		o.UNC, err = ParseUNC(v.text)
		return err
	},
	"unc":        func(o *CIFS, v value) error { o.unc = v.text; return nil },
	"prefixpath": func(o *CIFS, v value) error { o.prefix = v.text; return nil },
	"ip": func(o *CIFS, v value) (err error) {
		if o.Address, err = netip.ParseAddr(strings.Trim(v.text, "[]")); err != nil {
			return invalid(v.name, "%q is no IP address", v.text)
		}
		return nil
	},
	"port": func(o *CIFS, v value) error {
		n, err := v.number(0, 65535)
		o.Port = uint16(n)
		return err
	},
	"netbiosname": func(o *CIFS, v value) error { return v.string(&o.Workstation, 15) },
	"ver":         only("1"),

	"username": func(o *CIFS, v value) error { o.HasUser = true; return v.string(&o.User, 256) },
	"password": func(o *CIFS, v value) error { o.HasPassword = true; return v.secret(&o.Password) },
	"password2": func(o *CIFS, v value) error {
		return v.secret(&o.Password2)
	},
	"domain":      func(o *CIFS, v value) error { o.HasDomain = true; return v.string(&o.Domain, 255) },
	"credentials": func(o *CIFS, v value) error { o.Credentials = v.text; return nil },
	"guest":       on(func(o *CIFS) { o.Guest = true }),
	"sec":         setSec,
	"vers":        setVers,
	"sign":        on(func(o *CIFS) { o.Sign = true }),
	"seal":        on(func(o *CIFS) { o.Seal = true }),

	"max_channels":  only("1"),
	"retrans":       only("1"),
	"echo_interval": func(o *CIFS, v value) error { return v.seconds(&o.EchoInterval, 1, 600) },
	"hard":          on(func(o *CIFS) { o.Hard = true }),
	"nosoft":        on(func(o *CIFS) { o.Hard = true }),
	"soft":          on(func(o *CIFS) { o.Hard = false }),
	"nohard":        on(func(o *CIFS) { o.Hard = false }),

	"uid":       func(o *CIFS, v value) error { o.HasUID = true; return v.id(&o.UID) },
	"gid":       func(o *CIFS, v value) error { o.HasGID = true; return v.id(&o.GID) },
	"file_mode": func(o *CIFS, v value) error { return v.mode(&o.FileMode) },
	"dir_mode":  func(o *CIFS, v value) error { return v.mode(&o.DirMode) },
	"perm":      on(func(o *CIFS) { o.NoPerm = false }),
	"noperm":    on(func(o *CIFS) { o.NoPerm = true }),

	"mapposix":   on(func(o *CIFS) { o.MapChars = MapPosix }),
	"nomapposix": on(func(o *CIFS) { o.MapChars = MapNone }),
	"mapchars":   on(func(o *CIFS) { o.MapChars = MapSFU }),
	"nomapchars": on(func(o *CIFS) {
		if o.MapChars == MapSFU {
			o.MapChars = MapPosix
		}
	}),
	"nocase": on(func(o *CIFS) { o.NoCase = true }),
	"iocharset": func(_ *CIFS, v value) error {
		switch strings.ToLower(v.text) {
		case "utf8", "utf-8", "default":
			return nil
		}
		return unsupported(v.name, "names are UTF-8; "+strconv.Quote(v.text)+" is not supported")
	},

	"mfsymlinks": on(func(o *CIFS) { o.MFSymlinks = true }),
	"symlink": func(o *CIFS, v value) error {
		switch v.text {
		case "mfsymlinks":
			o.MFSymlinks = true
		case "none", "default":
			o.MFSymlinks = false
		case "native", "unix", "sfu", "nfs", "wsl":
			return unsupported(v.name, "the transport makes no links of kind "+v.text+"; mfsymlinks is possible")
		default:
			return invalid(v.name, "%q is none of mfsymlinks, none, default", v.text)
		}
		return nil
	},
	"reparse":  only("default"),
	"nodelete": on(func(o *CIFS) { o.NoDelete = true }),

	"cache": func(o *CIFS, v value) error {
		switch c := Cache(v.text); c {
		case CacheStrict, CacheNone, CacheLoose:
			o.Cache = c
			return nil
		case "ro", "singleclient":
			return unsupported(v.name, "strict, none and loose are supported")
		}
		return invalid(v.name, "%q is none of strict, none, loose", v.text)
	},
	"actimeo": func(o *CIFS, v value) error {
		var d time.Duration
		err := v.seconds(&d, 0, maxACTime)
		if err == nil && !o.hasAC { // the two finer options win, as in the kernel
			o.ACRegMax, o.ACDirMax = d, d
		}
		return err
	},
	"acregmax":     func(o *CIFS, v value) error { o.hasAC = true; return v.seconds(&o.ACRegMax, 0, maxACTime) },
	"acdirmax":     func(o *CIFS, v value) error { o.hasAC = true; return v.seconds(&o.ACDirMax, 0, maxACTime) },
	"noac":         on(func(o *CIFS) { o.ACRegMax, o.ACDirMax = 0, 0 }),
	"closetimeo":   only("0"),
	"nostrictsync": on(func(o *CIFS) { o.NoStrictSync = true }),
	"rsize":        func(o *CIFS, v value) error { return v.bytes(&o.RSize, 1, 1<<32-1) },
	"wsize":        func(o *CIFS, v value) error { return v.bytes(&o.WSize, 1, 1<<32-1) },

	"ro":         on(func(o *CIFS) { o.Mount.ReadOnly = true }),
	"rw":         on(func(o *CIFS) { o.Mount.ReadOnly = false }),
	"sync":       on(func(o *CIFS) { o.Mount.Sync = true }),
	"async":      on(func(o *CIFS) { o.Mount.Sync = false }),
	"dirsync":    on(func(o *CIFS) { o.Mount.DirSync = true }),
	"lazytime":   on(func(o *CIFS) { o.Mount.LazyTime = true }),
	"nolazytime": on(func(o *CIFS) { o.Mount.LazyTime = false }),
	"nosuid":     setAttr, "nodev": setAttr, "noexec": setAttr, "noatime": setAttr,
	"suid": clearAttr, "dev": clearAttr, "exec": clearAttr, "relatime": clearAttr,
	"sloppy": on(func(o *CIFS) { o.sloppy = true }),
}

// maxACTime is the kernel's CIFS_MAX_ACTIMEO in seconds, at 1000 ticks each.
const maxACTime = 1 << 30 / 1000

func on(f func(*CIFS)) func(*CIFS, value) error {
	return func(o *CIFS, _ value) error { f(o); return nil }
}

// only takes the one value that changes nothing.
func only(text string) func(*CIFS, value) error {
	return func(_ *CIFS, v value) error {
		if v.text == text {
			return nil
		}
		if cifsTable().find(v.name).Value != "string" {
			if n, err := v.number(0, 1<<32-1); err != nil {
				return err
			} else if strconv.FormatUint(n, 10) == text {
				return nil
			}
		}
		return unsupported(v.name, "only "+text+" is possible: "+cifsTable().find(v.name).Why)
	}
}

func setAttr(o *CIFS, v value) error   { o.Mount.Attr |= attrs[v.name]; return nil }
func clearAttr(o *CIFS, v value) error { o.Mount.Attr &^= attrs[v.name]; return nil }

func setSec(o *CIFS, v value) error {
	o.Sec, o.Sign = NTLMSSP, false // the last one wins
	switch v.text {
	case "ntlmssp":
	case "ntlmsspi":
		o.Sign = true
	case "none":
		o.Sec = Anonymous
	case "krb5", "krb5i", "krb5p":
		return unsupported(v.name, "Kerberos is not supported yet; ntlmssp, ntlmsspi and none are")
	case "ntlm", "ntlmi", "ntlmv2", "ntlmv2i", "nontlm", "lanman":
		return unsupported(v.name, v.text+" outside NTLMSSP is insecure and refused by servers; ntlmssp carries NTLMv2")
	default:
		return invalid(v.name, "%q is none of ntlmssp, ntlmsspi, none", v.text)
	}
	return nil
}

func setVers(o *CIFS, v value) error {
	switch v.text {
	case "2.0", "2.1", "3", "3.0", "3.02", "3.1.1", "default":
		o.Vers = v.text
	case "3.0.2":
		o.Vers = "3.02"
	case "3.11":
		o.Vers = "3.1.1"
	case "1.0":
		return unsupported(v.name, "SMB 1 is insecure and not spoken; 2.0, 2.1, 3.0, 3.02 and 3.1.1 are")
	default:
		return invalid(v.name, "%q is none of 2.0, 2.1, 3.0, 3.02, 3.1.1, 3, default", v.text)
	}
	return nil
}

// string takes text of at most max bytes.
func (v value) string(to *string, max int) error {
	switch {
	case len(v.text) > max:
		return invalid(v.name, "longer than %d bytes", max)
	case !utf8.ValidString(v.text):
		return invalid(v.name, "not UTF-8")
	}
	*to = v.text
	return nil
}

// secret is string for what no error may show: neither does string.
func (v value) secret(to *Secret) error {
	var s string
	if err := v.string(&s, 512); err != nil { // the kernel's CIFS_MAX_PASSWORD_LEN
		return err
	}
	*to = Secret(s)
	return nil
}

// number is the kernel's notation: 0x for hexadecimal, 0 for octal.
func (v value) number(min, max uint64) (uint64, error) {
	digits, base := v.text, 10
	if hex, ok := strings.CutPrefix(strings.ToLower(digits), "0x"); ok {
		digits, base = hex, 16
	} else if len(digits) > 1 && digits[0] == '0' {
		base = 8
	}
	n, err := strconv.ParseUint(digits, base, 64)
	if err != nil {
		return 0, invalid(v.name, "%q is no number", v.text)
	}
	if n < min || n > max {
		return 0, invalid(v.name, "%s is not between %d and %d", v.text, min, max)
	}
	return n, nil
}

func (v value) seconds(to *time.Duration, min, max uint64) error {
	n, err := v.number(min, max)
	if err == nil {
		*to = time.Duration(n) * time.Second
	}
	return err
}

func (v value) id(to *uint32) error { return v.bytes(to, 0, 1<<32-2) }

func (v value) mode(to *uint32) error {
	n, err := v.number(0, 0o7777)
	if err != nil {
		return invalid(v.name, "%q is no mode; expected octal digits such as 0755", v.text)
	}
	*to = uint32(n)
	return nil
}

func (v value) bytes(to *uint32, min, max uint64) error {
	n, err := v.number(min, max)
	if err == nil {
		*to = uint32(n)
	}
	return err
}
