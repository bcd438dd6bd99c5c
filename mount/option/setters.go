package option

import (
	"strconv"
	"strings"
	"time"
)

// setters are what takes each option that the table calls honoured, and the
// inherent ones that refuse some values, by the first of their names.
var setters = withFlags(func(o *CIFS) *Common { return &o.Common }, map[string]func(*CIFS, value) error{
	"source": func(o *CIFS, v value) (err error) {
		o.Source = v.text
		o.UNC, err = ParseUNC(v.text)
		return err
	},
	"unc":         func(o *CIFS, v value) error { o.unc = v.text; return nil },
	"prefixpath":  func(o *CIFS, v value) error { o.prefix = v.text; return nil },
	"ip":          func(o *CIFS, v value) error { return v.address(&o.Address) },
	"port":        func(o *CIFS, v value) error { return v.port(&o.Port) },
	"netbiosname": func(o *CIFS, v value) error { return v.string(&o.Workstation, 15) },
	"ver":         only[CIFS]("1"),

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

	"max_channels":  only[CIFS]("1"),
	"retrans":       only[CIFS]("1"),
	"echo_interval": func(o *CIFS, v value) error { return v.seconds(&o.EchoInterval, 1, 600) },
	"hard":          on(func(o *CIFS) { o.Hard = true }),
	"nosoft":        on(func(o *CIFS) { o.Hard = true }),
	"soft":          on(func(o *CIFS) { o.Hard = false }),
	"nohard":        on(func(o *CIFS) { o.Hard = false }),

	"uid":       func(o *CIFS, v value) error { o.HasUID = true; return v.id(&o.UID) },
	"gid":       func(o *CIFS, v value) error { o.HasGID = true; return v.id(&o.GID) },
	"file_mode": func(o *CIFS, v value) error { return v.mode(&o.FileMode) },
	"dir_mode":  func(o *CIFS, v value) error { return v.mode(&o.DirMode) },
	"perm":      on(func(o *CIFS) { o.Perm, o.NoPerm = true, false }),
	"noperm":    on(func(o *CIFS) { o.Perm, o.NoPerm = false, true }),

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
	"reparse":  only[CIFS]("default"),
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
	"closetimeo":   only[CIFS]("0"),
	"nostrictsync": on(func(o *CIFS) { o.NoStrictSync = true }),
	"rsize":        func(o *CIFS, v value) error { return v.bytes(&o.RSize, 1, 1<<32-1) },
	"wsize":        func(o *CIFS, v value) error { return v.bytes(&o.WSize, 1, 1<<32-1) },
})

// maxACTime is the kernel's CIFS_MAX_ACTIMEO in seconds, at 1000 ticks each.
const maxACTime = 1 << 30 / 1000

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
