package replay

import "time"

// clock reads times. It is owned by one goroutine.
type clock struct {
	day   [24]byte // date and zone of the last time
	start int64    // Unix time at which that day began
}

// latest is the last time that is taken for one: the year 2200, so that nanoseconds fit.
const latest = 7_258_118_400

// read returns a time in nanoseconds since 1970, and whether it is of whole seconds because
// the log does not say more. It knows nginx's $time_local, ISO 8601, and numbers of seconds
// (with a fraction or not), milliseconds, microseconds and nanoseconds since 1970, which are
// told apart by their digits.
func (c *clock) read(b []byte) (at int64, coarse, ok bool) {
	switch {
	case len(b) == 26 && b[2] == '/' && b[6] == '/' && b[11] == ':':
		return c.readLocal(b)
	case len(b) >= 20 && b[4] == '-' && b[7] == '-' && (b[10] == 'T' || b[10] == ' '):
		return c.readISO(b)
	}
	return readEpoch(b)
}

// readLocal reads 02/Jan/2006:15:04:05 -0700.
func (c *clock) readLocal(b []byte) (at int64, coarse, ok bool) {
	day, ok1 := digits(b[0:2])
	month := monthOf(b[3:6])
	year, ok2 := digits(b[7:11])
	zone, ok3 := readZone(b[21:])
	if !ok1 || !ok2 || !ok3 || !isDay(year, month, day) || b[20] != ' ' {
		return 0, false, false
	}
	second, ok := readClock(b[12:20])
	return c.join(b[:11], b[21:], year, month, day, zone, second, 0), true, ok
}

// readISO reads 2006-01-02T15:04:05.999-07:00; the fraction may be absent, and Z the zone.
func (c *clock) readISO(b []byte) (at int64, coarse, ok bool) {
	year, ok1 := digits(b[0:4])
	month, ok2 := digits(b[5:7])
	day, ok3 := digits(b[8:10])
	second, ok4 := readClock(b[11:19])
	rest := b[19:]
	var nanos int64
	coarse = rest[0] != '.' && rest[0] != ','
	if !coarse {
		n := 1
		for n < len(rest) && rest[n]-'0' < 10 {
			n++
		}
		nanos, ok = fraction(rest[1:n])
		if !ok {
			return 0, false, false
		}
		rest = rest[n:]
	}
	zone, ok5 := readZone(rest)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || !isDay(year, month, day) {
		return 0, false, false
	}
	return c.join(b[:10], rest, year, month, day, zone, second, nanos), coarse, true
}

// isDay says whether a date may be one that a log holds.
func isDay(year, month, day int) bool {
	return year >= 1970 && year < 2200 && month >= 1 && month <= 12 && day >= 1 && day <= 31
}

// join computes a time. The beginning of the day is kept, as the lines of a log share it.
func (c *clock) join(date, zoneText []byte, year, month, day, zone, second int, nanos int64) int64 {
	var key [24]byte // 11 and 6 bytes at most
	copy(key[copy(key[:], date):], zoneText)
	if key != c.day {
		c.day = key
		c.start = time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC).Unix() - int64(zone)
	}
	return (c.start+int64(second))*1e9 + nanos
}

// readClock reads 15:04:05 as seconds of the day.
func readClock(b []byte) (second int, ok bool) {
	h, ok1 := digits(b[0:2])
	m, ok2 := digits(b[3:5])
	s, ok3 := digits(b[6:8])
	ok = ok1 && ok2 && ok3 && b[2] == ':' && b[5] == ':' && h < 24 && m < 60 && s <= 60
	return h*3600 + m*60 + s, ok
}

// readZone reads Z, +0700 or +07:00 as seconds east of Greenwich.
func readZone(b []byte) (seconds int, ok bool) {
	if len(b) == 1 && b[0]|0x20 == 'z' {
		return 0, true
	}
	minutes := len(b) - 2
	if minutes != 3 && (minutes != 4 || b[3] != ':') || b[0] != '+' && b[0] != '-' {
		return 0, false
	}
	h, ok1 := digits(b[1:3])
	m, ok2 := digits(b[minutes:])
	seconds = h*3600 + m*60
	if b[0] == '-' {
		seconds = -seconds
	}
	return seconds, ok1 && ok2 && h < 24 && m < 60
}

// readEpoch reads a number of some unit since 1970.
func readEpoch(b []byte) (at int64, coarse, ok bool) {
	n := 0
	for n < len(b) && b[n]-'0' < 10 {
		n++
	}
	if n == 0 || n > 19 {
		return 0, false, false
	}
	var v int64
	for _, c := range b[:n] {
		v = v*10 + int64(c-'0')
	}
	unit := int64(1)
	switch {
	case n <= 11:
		unit = 1e9
	case n <= 14:
		unit = 1e6
	case n <= 17:
		unit = 1e3
	}
	if v < 0 || v > latest*1e9/unit {
		return 0, false, false
	}
	if n == len(b) {
		return v * unit, unit == 1e9, true
	}
	if b[n] != '.' {
		return 0, false, false
	}
	nanos, ok := fraction(b[n+1:])
	return v*unit + nanos/(1e9/unit), false, ok
}

// readSeconds reads a duration in seconds, of a million at most.
func readSeconds(b []byte) (d time.Duration, ok bool) {
	n := 0
	for n < len(b) && b[n]-'0' < 10 {
		n++
	}
	whole, ok := digits(b[:n])
	if !ok || n > 7 || n < len(b) && b[n] != '.' {
		return 0, false
	}
	var nanos int64
	if n < len(b) {
		nanos, ok = fraction(b[n+1:])
	}
	return time.Duration(whole)*time.Second + time.Duration(nanos), ok
}

// fraction reads the digits behind a decimal point as billionths.
func fraction(b []byte) (nanos int64, ok bool) {
	scale := int64(1e9)
	for _, c := range b {
		if c-'0' > 9 {
			return 0, false
		}
		scale /= 10
		nanos += int64(c-'0') * scale // what is beyond a billionth counts nothing
	}
	return nanos, len(b) > 0
}

// digits reads a number of up to nine digits.
func digits(b []byte) (n int, ok bool) {
	if len(b) == 0 || len(b) > 9 {
		return 0, false
	}
	for _, c := range b {
		if c-'0' > 9 {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

// monthOf returns 1 for Jan, and 0 for what is no month.
func monthOf(b []byte) int {
	switch string(b) {
	case "Jan":
		return 1
	case "Feb":
		return 2
	case "Mar":
		return 3
	case "Apr":
		return 4
	case "May":
		return 5
	case "Jun":
		return 6
	case "Jul":
		return 7
	case "Aug":
		return 8
	case "Sep":
		return 9
	case "Oct":
		return 10
	case "Nov":
		return 11
	case "Dec":
		return 12
	}
	return 0
}
