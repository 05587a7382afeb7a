package accesslog

import (
	"sync/atomic"
	"time"
)

const (
	isoLayout   = "2006-01-02T15:04:05" // the milliseconds and the zone follow
	zoneLayout  = "Z07:00"
	localLayout = "02/Jan/2006:15:04:05 -0700"
)

// clock formats times, and keeps the text of the last second, as formatting a date costs
// more than the rest of a line. It is safe for concurrent use.
type clock struct {
	last atomic.Pointer[secondText]
}

// secondText is one second in all forms. It is never changed.
type secondText struct {
	unix  int64
	iso   string
	zone  string
	local string
}

func (c *clock) at(t time.Time) *secondText {
	unix := t.Unix()
	if s := c.last.Load(); s != nil && s.unix == unix {
		return s
	}
	t = t.Local()
	s := &secondText{
		unix:  unix,
		iso:   t.Format(isoLayout),
		zone:  t.Format(zoneLayout),
		local: t.Format(localLayout),
	}
	c.last.Store(s)
	return s
}

// appendISO appends t as 2006-01-02T15:04:05.000+07:00 in local time.
func (c *clock) appendISO(dst []byte, t time.Time) []byte {
	s := c.at(t)
	dst = append(dst, s.iso...)
	dst = append(dst, '.')
	dst = appendPadded(dst, uint64(t.Nanosecond()/1e6), 3)
	return append(dst, s.zone...)
}

// appendLocal appends t as nginx's $time_local.
func (c *clock) appendLocal(dst []byte, t time.Time) []byte {
	return append(dst, c.at(t).local...)
}

// appendSeconds appends d in seconds with six decimals.
func appendSeconds(dst []byte, d time.Duration) []byte {
	us := uint64(max(d, 0) / time.Microsecond)
	dst = appendPadded(dst, us/1e6, 1)
	dst = append(dst, '.')
	return appendPadded(dst, us%1e6, 6)
}

// appendPadded appends n in decimal with at least width digits.
func appendPadded(dst []byte, n uint64, width int) []byte {
	var buf [20]byte
	i := len(buf)
	for n > 0 || width > 0 {
		i--
		buf[i] = byte('0' + n%10)
		n /= 10
		width--
	}
	return append(dst, buf[i:]...)
}
