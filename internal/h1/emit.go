package h1

// AppendFields appends the field lines that are passed on, byte for byte and in
// order: all but those marked Hop and those in skip. Runs of lines are copied at once.
func (h *Head) AppendFields(dst []byte, skip FieldSet) []byte {
	run := -1 // index of the first field of the current run
	for i := range h.Fields {
		f := &h.Fields[i]
		if !f.Hop && !skip.Has(f.ID) {
			if run < 0 {
				run = i
			}
			continue
		}
		if run >= 0 {
			dst = append(dst, h.Raw[h.Fields[run].NameStart:f.NameStart]...)
			run = -1
		}
	}
	if run >= 0 {
		dst = append(dst, h.Raw[h.Fields[run].NameStart:len(h.Raw)-2]...)
	}
	return dst
}

// DropName marks every field called name, in any case, as not to be passed on.
func (h *Head) DropName(name []byte) {
	id := LookupField(name)
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.ID == id && (id != Unknown || equalFoldBytes(h.Name(i), name)) {
			f.Hop = true
		}
	}
}
