package option

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// Every name that mount.cifs(8) and the kernel know has a row.
func TestNamesComplete(t *testing.T) {
	text, err := os.ReadFile("testdata/names")
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.Lines(string(text)) {
		if name = strings.TrimSpace(name); name[0] != '#' && cifsTable().find(name) == nil {
			t.Errorf("no row for %q", name)
		}
	}
}

// samples are of the honoured options.
var samples = map[string]sample{
	"source": {"", "//other/share/dir"}, "unc": {"", `\\nas\photos`}, "prefixpath": {"", "2024"},
	"ip": {"", "192.0.2.7"}, "port": {"", "4450"}, "netbiosname": {"", "LAPTOP"},
	"username": {"", "me"}, "password": {"", "x"}, "password2": {"", "y"}, "domain": {"", "HOME"},
	"credentials": {"", "/root/cred"}, "guest": {}, "sec": {"", "none"}, "vers": {"", "3.0"}, "sign": {}, "seal": {},
	"echo_interval": {"", "7"}, "hard": {}, "nosoft": {}, "soft": {"hard", ""}, "nohard": {"hard", ""},
	"uid": {"", "1000"}, "gid": {"", "1000"}, "file_mode": {"", "0640"}, "dir_mode": {"", "0750"},
	"perm": {"noperm", ""}, "noperm": {}, "mapposix": {"mapchars", ""}, "nomapposix": {}, "mapchars": {},
	"nomapchars": {"mapchars", ""}, "nocase": {}, "mfsymlinks": {}, "symlink": {"", "mfsymlinks"}, "nodelete": {},
	"cache": {"", "none"}, "actimeo": {"", "30"}, "acregmax": {"", "30"}, "acdirmax": {"", "30"}, "noac": {},
	"nostrictsync": {}, "rsize": {"", "65536"}, "wsize": {"", "65536"},
	"ro": {}, "rw": {"ro", ""}, "sync": {}, "async": {"sync", ""}, "dirsync": {}, "lazytime": {}, "nolazytime": {"lazytime", ""},
	"nosuid": {}, "suid": {"nosuid", ""}, "nodev": {}, "dev": {"nodev", ""}, "noexec": {}, "exec": {"noexec", ""},
	"noatime": {}, "relatime": {"noatime", ""}, "sloppy": {},
}

// accepted are the values that the inherent options with values take.
var accepted = map[string]string{"ver": "1", "max_channels": "1", "retrans": "0x1", "iocharset": "utf8",
	"reparse": "default", "closetimeo": "0"}

func param(name, value string, r Row) Param { return Param{name, value, r.takesValue()} }

func TestEveryCIFSOption(t *testing.T) {
	everyOption(t, cifsTable().rows, setters, samples, accepted, func() *CIFS { return NewCIFS("cifs") })
}

// sample is a value for an honoured option, after what must stand before it for
// a difference to show.
type sample struct{ before, value string }

// Nothing is accepted and forgotten: what is honoured changes the result, what
// is inherent takes some values only, what is refused is refused by name.
func everyOption[T comparable, O interface {
	*T
	Options
}](t *testing.T, rows []Row, setters map[string]func(*T, value) error, samples map[string]sample, accepted map[string]string, fresh func() O) {
	used := map[string]bool{}
	for _, r := range rows {
		if r.Why == "" {
			t.Errorf("%s: no reason", r.Names[0])
		}
		_, set := setters[r.Names[0]]
		used[r.Names[0]] = set
		for _, name := range r.Names {
			o := fresh()
			switch r.Verdict {
			case Honoured:
				s, ok := samples[r.Names[0]]
				if !ok || !set {
					t.Errorf("%s: no sample or setter", name)
				}
				if s.before != "" {
					if err := o.Set(Param{Name: s.before}); err != nil {
						t.Error(err)
					}
				}
				old := *o
				if err := o.Set(param(name, s.value, r)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if old == *o {
					t.Errorf("%s=%s changes nothing", name, s.value)
				}
			case Inherent:
				if set != r.takesValue() {
					t.Errorf("%s: an inherent option with values must check them, one without cannot", name)
				}
				old := *o
				if err := o.Set(param(name, accepted[r.Names[0]], r)); err != nil || old != *o {
					t.Errorf("%s: %v", name, err)
				}
				if set {
					if err := o.Set(param(name, "77", r)); err == nil {
						t.Errorf("%s=77 is forgotten", name)
					}
				}
			case Refused:
				err := o.Set(param(name, "1", r))
				if set || !errors.Is(err, syscall.EOPNOTSUPP) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), r.Why) {
					t.Errorf("%s: %v", name, err)
				}
			case Userspace:
				old := *o
				if err := o.Set(param(strings.Replace(name, "*", "y", 1), "1", r)); set || err != nil || old != *o {
					t.Errorf("%s: %v", name, err)
				}
			default:
				t.Errorf("%s: verdict %q", name, r.Verdict)
			}
		}
	}
	for name := range setters {
		if !used[name] {
			t.Errorf("setter %q has no row", name)
		}
	}
}

func parseCIFS(fsType, source string, params []Param) (*CIFS, error) {
	o := NewCIFS(fsType)
	return o, Parse(o, source, params)
}

func TestSplit(t *testing.T) {
	for data, want := range map[string][]string{
		"":                             nil,
		"ro":                           {"ro"},
		"user=me,pass=a,,b,uid=0":      {"user=me", "pass=a,b", "uid=0"},
		"pass=,,":                      {"pass=,"},
		"pass=a,,,,b":                  {"pass=a,,b"},
		",user=me":                     {"user=me"},
		"user=me,":                     {"user=me"},
		"sep=;user=me;pass=a,b;ro":     {"user=me", "pass=a,b", "ro"},
		"sep=;pass=a;;b":               {"pass=a;b"},
		"a=b=c":                        {"a=b=c"},
		"x=":                           {"x="},
		"password=new\nline,user=me":   {"password=new\nline", "user=me"},
		`unc=\\nas\s,ip=192.0.2.1`:     {`unc=\\nas\s`, "ip=192.0.2.1"},
		"credentials=/a b,,c,username": {"credentials=/a b,c", "username"},
	} {
		params, err := Split(data)
		if err != nil {
			t.Errorf("%q: %v", data, err)
			continue
		}
		var got []string
		for _, p := range params {
			s := p.Name
			if p.Has {
				s += "=" + p.Value
			}
			got = append(got, s)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q: %s", data, d)
		}
	}
	for _, data := range []string{"=x", "sep=", strings.Repeat("x", 4096)} {
		if _, err := Split(data); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%.20q: %v", data, err)
		}
	}
}

// A value that came by a key of its own is never taken apart.
func TestInjection(t *testing.T) {
	o, err := parseCIFS("cifs", "//nas/photos", []Param{
		{"username", "me,uid=0,file_mode=0777", true}, {"password", "a,b\nguest\n,sec=none", true}})
	if err != nil {
		t.Fatal(err)
	}
	if o.User != "me,uid=0,file_mode=0777" || string(o.Password) != "a,b\nguest\n,sec=none" || o.HasUID || o.Guest || o.Sec != NTLMSSP || o.FileMode != 0o755 {
		t.Errorf("%+v", o)
	}
}

func TestParseCIFS(t *testing.T) {
	parse := func(data string) (*CIFS, error) {
		params, err := Split(data)
		if err != nil {
			return nil, err
		}
		return parseCIFS("cifs", "//nas/photos/2024", params)
	}
	o, err := parse(`ip=192.0.2.1,unc=\\nas\photos,port=4450,prefixpath=2024,user=me,pass=pw,file_mode=0644,nosuid,ro,actimeo=5,acdirmax=9`)
	if err != nil {
		t.Fatal(err)
	}
	if o.Prefix != "2024" || o.Port != 4450 || o.FileMode != 0o644 || o.ACRegMax != 5*time.Second || o.ACDirMax != 9*time.Second ||
		o.Mount != (Flags{ReadOnly: true, Attr: unix.MOUNT_ATTR_NOSUID}) {
		t.Errorf("%+v", o)
	}
	if err := o.Ready(Login{}); err != nil {
		t.Error(err)
	}
	for data, want := range map[string]string{
		"foo":                    `unknown option "foo"`,
		"foo=1":                  `unknown option "foo"`,
		"pass=a, hunter2":        "an option whose name is none; put a password with a comma in it into credentials=FILE",
		"guest=1":                `option "guest": takes no value`,
		"uid":                    `option "uid": expected uid=u32`,
		"uid=me":                 `option "uid": "me" is no number`,
		"uid=0x":                 `option "uid": "0x" is no number`,
		"port=65536":             `option "port": 65536 is not between 0 and 65535`,
		"vers=1.0":               `option "vers": SMB 1 is insecure and not spoken; 2.0, 2.1, 3.0, 3.02 and 3.1.1 are`,
		"sec=krb5":               `option "sec": Kerberos is not supported yet; ntlmssp, ntlmsspi and none are`,
		"ip=nas":                 `option "ip": "nas" is no IP address`,
		`unc=\\nas\music`:        `option "unc": names //nas/music, the source //nas/photos/2024`,
		"prefixpath=2025":        `option "prefixpath": names another directory than the source //nas/photos/2024`,
		"multichannel":           `option "multichannel": the transport uses one connection`,
		"max_channels=4":         `option "max_channels": only 1 is possible: one connection for each mount: 1`,
		"sec=none,sign":          `option "sign": an anonymous session has no key to sign with`,
		"iocharset=iso8859-1":    `option "iocharset": names are UTF-8; "iso8859-1" is not supported`,
		"file_mode=0999":         `option "file_mode": "0999" is no mode; expected octal digits such as 0755`,
		"ip=":                    `option "ip": expected a value`,
		"reparse=wsl":            `option "reparse": only default is possible: no special files are made as reparse points: default`,
		"actimeo=99999999999999": `option "actimeo": 99999999999999 is not between 0 and 1073741`,
	} {
		if _, err := parse(data); err == nil || err.Error() != want {
			t.Errorf("%s: %v\nwant %s", data, err, want)
		}
	}
	if _, err := parse("sloppy,foo=1"); err != nil {
		t.Error(err)
	}
}

func TestReady(t *testing.T) {
	for data, want := range map[string]struct {
		sec  Sec
		user string
		fail bool
	}{
		"user=me,pass=x":               {NTLMSSP, "me", false},
		"user=me,pass=":                {NTLMSSP, "me", false},
		"user=me,guest":                {NTLMSSP, "me", false},
		"guest":                        {Anonymous, "", false},
		"user=,pass=":                  {Anonymous, "", false},
		"sec=none":                     {Anonymous, "", false},
		"user=me":                      {fail: true},
		"pass=x":                       {fail: true},
		"":                             {fail: true},
		"guest,sign":                   {fail: true},
		"credentials=/c":               {NTLMSSP, "file", false},
		"credentials=/c,username=mine": {NTLMSSP, "mine", false},
	} {
		params, err := Split(data)
		if err != nil {
			t.Fatal(err)
		}
		o, err := parseCIFS("cifs", "//nas/photos", params)
		if err != nil {
			t.Fatal(err)
		}
		var file Login
		if o.Credentials != "" {
			file = Login{User: "file", HasUser: true, Password: "pw", HasPassword: true}
		}
		err = o.Ready(file)
		if (err != nil) != want.fail || !want.fail && (o.Sec != want.sec || o.User != want.user) {
			t.Errorf("%q: %v, %+v", data, err, o)
		}
	}
}

// No way of printing shows a password.
func TestSecretsHidden(t *testing.T) {
	o, err := parseCIFS("cifs", "//nas/photos", []Param{{"user", "me", true}, {"pass", "hunter2", true}, {"password2", "hunter2", true}})
	if err != nil {
		t.Fatal(err)
	}
	j, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	all := string(j) + fmt.Sprint(*o) + fmt.Sprintf("%+v %#v %q %x %d", *o, *o, o.Password, o.Password, o.Password)
	for _, name := range secrets {
		all += Param{name, "hunter2", true}.String()
	}
	if strings.Contains(all, "hunter2") || strings.Contains(all, fmt.Sprintf("%x", "hunter2")) {
		t.Error(all)
	}
}
