"""A thin ctypes binding of libpsgd: what a hook for a trainer in Python needs, and no more.

Structs are named and laid out as in <psgd/*.h>. The classes at the end own what the C library
lends by pointer, and turn a failure into Error with the library's own text. The library is the one
that PSGD_LIBRARY names, else the one that the loader finds.
"""
import ctypes
import os
import weakref
from ctypes import (CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_double, c_float, c_int,
                    c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p)

PSGD_OK, PSGD_PENDING, PSGD_WANT_COLLECTIVE = 0, 1, 2
PSGD_ERR_IO = -11
PSGD_F32, PSGD_F64, PSGD_U8 = 1, 2, 3
PSGD_BROADCAST = 2
PSGD_RANK_DENSE = 0xffffffff
PSGD_CAP_NONE, PSGD_CAP_CALIBRATION, PSGD_CAP_LIVE = 0, 1, 2
PSGD_CHOICE_MAX, PSGD_CHOICE_FIXED, PSGD_CHOICE_SCHEDULE, PSGD_CHOICE_EPOCHNORM = 0, 1, 2, 3
PSGD_CHOICE_REPLAY, PSGD_CHOICE_EMA, PSGD_CHOICE_ACCORDION = 4, 5, 6
PSGD_CHOICE_LGRECO, PSGD_CHOICE_ENTROPY = 7, 8
PSGD_POWERSGD_NO_ERROR_FEEDBACK, PSGD_POWERSGD_NO_WARM_START = 1, 2
PSGD_MAX_DIMS = 8
PSGD_VERSION_MAJOR, PSGD_VERSION_MINOR = 0, 1


class Sized(Structure):
    """A struct that begins with its size; every other field is zero at first."""
    def __init__(self, **fields):
        super().__init__(size=ctypes.sizeof(self), **fields)


class psgd_tensor(Structure):
    _fields_ = [('id', c_uint32), ('flags', c_uint32), ('dtype', c_uint32), ('n_dims', c_uint32),
                ('dims', c_int64 * PSGD_MAX_DIMS), ('name', c_char_p)]


class psgd_grad(Structure):
    _fields_ = [('id', c_uint32), ('data', c_void_p)]


class psgd_bucket(Sized):
    _fields_ = [('size', c_size_t), ('grads', POINTER(psgd_grad)), ('n_grads', c_size_t)]


class psgd_powersgd_options(Sized):
    _fields_ = [('size', c_size_t), ('seed', c_uint64), ('start_step', c_uint64),
                ('min_ratio', c_double), ('eps', c_double), ('rank', c_uint32),
                ('flags', c_uint32)]


class psgd_compressor(Structure):
    _fields_ = [('ops', c_void_p), ('self', c_void_p)]


class psgd_controller(Structure):
    _fields_ = [('ops', c_void_p), ('self', c_void_p)]


class psgd_epochnorm_options(Sized):
    _fields_ = [('size', c_size_t), ('force_max', c_uint64), ('stride', c_uint64),
                ('rank_cooldown', c_uint64), ('lr_cooldown', c_uint64), ('threshold', c_double),
                ('in_steps', c_uint8), ('no_rank_cooldown', c_uint8), ('no_force_max', c_uint8),
                ('no_lr_cooldown', c_uint8), ('reserved', c_uint8 * 4)]


class psgd_live_options(Sized):
    _fields_ = [('size', c_size_t), ('max_exposed', c_double), ('dwell_steps', c_uint64),
                ('warmup_steps', c_uint64), ('prior_delay_ns', c_double),
                ('prior_ns_per_byte', c_double)]


class psgd_ema_options(Sized):
    _fields_ = [('size', c_size_t), ('beta', c_double), ('critical', c_double),
                ('relaxed', c_double), ('interval_steps', c_uint64), ('base_rank', c_uint32),
                ('reserved', c_uint32)]


class psgd_accordion_options(Sized):
    _fields_ = [('size', c_size_t), ('threshold', c_double), ('stride', c_uint64),
                ('in_steps', c_uint8), ('no_lr_drop', c_uint8), ('reserved', c_uint8 * 6)]


class psgd_lgreco_options(Sized):
    _fields_ = [('size', c_size_t), ('adjust_steps', c_uint64), ('sample_steps', c_uint64),
                ('alpha', c_double), ('low', c_double), ('high', c_double),
                ('base_rank', c_uint32), ('reserved', c_uint32)]


class psgd_entropy_options(Sized):
    _fields_ = [('size', c_size_t), ('window_steps', c_uint64), ('sample_every', c_uint64),
                ('slew', c_uint32), ('round_to', c_uint32)]


class psgd_rank_control_options(Sized):
    _fields_ = [('size', c_size_t), ('cap', c_uint32), ('choice', c_uint32),
                ('min_rank', c_uint32), ('max_rank', c_uint32), ('fixed_rank', c_uint32),
                ('default_rank', c_uint32), ('candidates', POINTER(c_uint32)),
                ('n_candidates', c_size_t), ('ranges', c_void_p), ('n_ranges', c_size_t),
                ('replay', c_void_p), ('n_replay', c_size_t), ('replay_ranks', POINTER(c_uint32)),
                ('n_replay_tensors', c_size_t), ('epochnorm', POINTER(psgd_epochnorm_options)),
                ('live', POINTER(psgd_live_options)), ('calibration', c_void_p),
                ('ema', POINTER(psgd_ema_options)), ('accordion', POINTER(psgd_accordion_options)),
                ('lgreco', POINTER(psgd_lgreco_options)),
                ('entropy', POINTER(psgd_entropy_options))]


class psgd_step_info(Sized):
    _fields_ = [('size', c_size_t), ('epoch', c_uint64), ('learning_rate', c_double),
                ('param_hash', c_uint64), ('epoch_end', c_uint32), ('reserved', c_uint32)]


class psgd_transport(Structure):
    _fields_ = [('ops', c_void_p), ('self', c_void_p), ('worker', c_uint32),
                ('n_workers', c_uint32)]


ALLGATHER = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_size_t)


class psgd_oob(Structure):
    _fields_ = [('allgather', ALLGATHER), ('self', c_void_p), ('worker', c_uint32),
                ('n_workers', c_uint32)]


class psgd_gloo_options(Sized):
    _fields_ = [('size', c_size_t), ('oob', POINTER(psgd_oob)), ('address', c_char_p),
                ('interface_name', c_char_p), ('timeout_ns', c_int64), ('module_dir', c_char_p),
                ('error', c_void_p), ('error_bytes', c_size_t)]


class psgd_session_options(Sized):
    _fields_ = [('size', c_size_t), ('device', c_void_p), ('compressor', POINTER(psgd_compressor)),
                ('controller', POINTER(psgd_controller)),
                ('transport', POINTER(psgd_transport)),
                ('worker', c_uint32), ('n_workers', c_uint32), ('flags', c_uint32),
                ('check_every', c_uint32), ('timeout_ns', c_int64), ('log', c_void_p),
                ('log_user', c_void_p), ('log_level', c_int), ('reserved', c_uint32)]


class psgd_decision(Structure):
    _fields_ = [('size', c_size_t), ('regime', c_char_p), ('value', c_double),
                ('threshold', c_double), ('link_delay_ns', c_double),
                ('link_ns_per_byte', c_double), ('predicted_exposed', c_double),
                ('step', c_uint64), ('rank', c_uint32), ('cap', c_uint32), ('choice', c_uint32),
                ('changed', c_uint8), ('reset_grad_sum', c_uint8), ('reset_local_sum', c_uint8),
                ('reserved', c_uint8), ('ranks', POINTER(c_uint32)), ('n_ranks', c_size_t)]


class psgd_report(Sized):
    _fields_ = [('size', c_size_t), ('step', c_uint64), ('step_ns', c_int64),
                ('compute_ns', c_int64), ('exposed_encode_ns', c_int64),
                ('exposed_wire_ns', c_int64), ('exposed_decode_ns', c_int64),
                ('encode_ns', c_int64), ('decode_ns', c_int64), ('wire_ns', c_int64),
                ('hidden_wire_ns', c_int64), ('sync_ns', c_int64), ('raw_bytes', c_uint64),
                ('payload_bytes', c_uint64), ('control_bytes', c_uint64), ('sent_bytes', c_uint64),
                ('sync_bytes', c_uint64), ('grad_norm', c_double), ('grad_sum_norm', c_double),
                ('n_buckets', c_uint32), ('n_messages', c_uint32), ('rank_min', c_uint32),
                ('rank_max', c_uint32), ('n_nonfinite', c_uint32), ('decided', c_uint32),
                ('decision', psgd_decision)]


class psgd_memory(Sized):
    _fields_ = [('size', c_size_t), ('state_bytes', c_uint64), ('message_bytes', c_uint64),
                ('observe_bytes', c_uint64)]


class psgd_collective(Sized):
    _fields_ = [('size', c_size_t), ('kind', c_uint32), ('dtype', c_uint32), ('count', c_int64),
                ('data', c_void_p), ('tag', c_uint64), ('stream', c_void_p), ('notify', c_void_p),
                ('notify_user', c_void_p), ('root', c_uint32), ('reserved', c_uint32)]


class Error(Exception):
    """A call of libpsgd failed."""
    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


# name: result and arguments
FUNCTIONS = {
    'psgd_version': (c_uint32,),
    'psgd_status_text': (c_char_p, c_int),
    'psgd_compressor_dense': (c_int, POINTER(psgd_compressor)),
    'psgd_compressor_powersgd': (c_int, POINTER(psgd_powersgd_options), POINTER(psgd_compressor)),
    'psgd_compressor_destroy': (None, POINTER(psgd_compressor)),
    'psgd_controller_rank_control': (c_int, POINTER(psgd_rank_control_options), c_void_p, c_size_t,
                                     POINTER(psgd_controller)),
    'psgd_controller_destroy': (None, POINTER(psgd_controller)),
    'psgd_transport_gloo': (c_int, POINTER(psgd_gloo_options), POINTER(psgd_transport)),
    'psgd_transport_destroy': (None, POINTER(psgd_transport)),
    'psgd_session_open': (c_int, POINTER(psgd_tensor), c_size_t, POINTER(psgd_session_options),
                          POINTER(c_void_p)),
    'psgd_session_submit': (c_int, c_void_p, POINTER(psgd_bucket), c_void_p, POINTER(c_uint64)),
    'psgd_session_finish_step': (c_int, c_void_p, POINTER(psgd_step_info), POINTER(psgd_report)),
    'psgd_session_set_ranks': (c_int, c_void_p, POINTER(c_uint32), c_size_t),
    'psgd_session_memory': (c_int, c_void_p, POINTER(psgd_memory)),
    'psgd_session_error': (None, c_void_p, c_void_p, c_size_t),
    'psgd_session_close': (None, POINTER(c_void_p)),
    'psgd_exchange_begin': (c_int, c_void_p, POINTER(psgd_bucket), c_void_p, POINTER(c_void_p)),
    'psgd_exchange_begin_finish': (c_int, c_void_p, POINTER(psgd_step_info), POINTER(psgd_report),
                                   POINTER(c_void_p)),
    'psgd_exchange_next': (c_int, c_void_p, POINTER(psgd_collective)),
    'psgd_exchange_end': (None, POINTER(c_void_p)),
}


def load(path):
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f'{error}; PSGD_LIBRARY names the library') from None
    for name, (result, *arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    wanted = PSGD_VERSION_MAJOR * 100 + PSGD_VERSION_MINOR
    if library.psgd_version() // 100 != wanted:
        raise ImportError(f'{path} is of another version: {library.psgd_version()}, '
                          f'this binding is for {wanted}xx')
    return library


lib = load(os.environ.get('PSGD_LIBRARY', 'libpsgd.so.0'))


def check(status, text=''):
    """The status, unless it is a failure. text: the reason, if somebody knows it."""
    if status < 0:
        raise Error(status, text or lib.psgd_status_text(status).decode())
    return status


class Compressor:
    """How gradients become messages; made by dense() or powersgd(). One session at a time."""
    def __init__(self, create, *options):
        self.c = psgd_compressor()
        check(create(*options, byref(self.c)))

    def close(self):
        lib.psgd_compressor_destroy(byref(self.c))

    __del__ = close


def dense():
    return Compressor(lib.psgd_compressor_dense)


def powersgd(rank=0, **options):
    """PowerSGD; options are the fields of psgd_powersgd_options, and 0 is their default."""
    return Compressor(lib.psgd_compressor_powersgd, psgd_powersgd_options(rank=rank, **options))


CAPS = {'none': PSGD_CAP_NONE, 'live': PSGD_CAP_LIVE}
CHOICES = {'max': (PSGD_CHOICE_MAX, None), 'fixed': (PSGD_CHOICE_FIXED, None),
           'epochnorm': (PSGD_CHOICE_EPOCHNORM, psgd_epochnorm_options),
           'ema': (PSGD_CHOICE_EMA, psgd_ema_options),
           'accordion': (PSGD_CHOICE_ACCORDION, psgd_accordion_options),
           'lgreco': (PSGD_CHOICE_LGRECO, psgd_lgreco_options),
           'entropy': (PSGD_CHOICE_ENTROPY, psgd_entropy_options)}


class Controller:
    """Which rank the next step has, min(choice, cap); made by rank_control(). One session a time."""
    def __init__(self, options):
        self.c = psgd_controller()
        reason = ctypes.create_string_buffer(512)
        status = lib.psgd_controller_rank_control(byref(options), reason, len(reason),
                                                  byref(self.c))
        check(status, reason.value.decode())

    def close(self):
        lib.psgd_controller_destroy(byref(self.c))

    __del__ = close


def rank_control(cap='live', choice='max', candidates=None, live=None, **options):
    """What the network carries under what training asks for, by the names in CAPS and CHOICES.

    candidates: ranks that a cap tries, PSGD_RANK_DENSE may be last. live, and a dictionary by the
    name of the choice, are fields of their structs; other options those of
    psgd_rank_control_options. 0 is the default everywhere. The same on all workers.
    """
    made = psgd_rank_control_options(cap=CAPS[cap], choice=CHOICES[choice][0])
    if CHOICES[choice][1]:
        options[choice] = ctypes.pointer(CHOICES[choice][1](**options.get(choice, {})))
    if live:
        made.live = ctypes.pointer(psgd_live_options(**live))
    if candidates:
        made.candidates = (c_uint32 * len(candidates))(*candidates)
        made.n_candidates = len(candidates)
    for name, value in options.items():
        setattr(made, name, value)
    return Controller(made)


class Gloo:
    """TCP between processes. allgather(bytes) returns a list, one item a worker, in their order."""
    def __init__(self, allgather, worker, n_workers, interface=None, timeout_ns=0):
        self.c = psgd_transport()
        failure = []

        def call(_, send, receive, size):
            # An exception cannot pass through the library: it comes out behind the call.
            try:
                blocks = allgather(ctypes.string_at(send, size))
                ctypes.memmove(receive, b''.join(blocks), size * n_workers)
                return PSGD_OK
            except Exception as error:
                failure.append(error)
                return PSGD_ERR_IO

        oob = psgd_oob(ALLGATHER(call), None, worker, n_workers)
        reason = ctypes.create_string_buffer(512)
        options = psgd_gloo_options(
            oob=ctypes.pointer(oob), interface_name=interface.encode() if interface else None,
            timeout_ns=timeout_ns, error=ctypes.addressof(reason), error_bytes=len(reason))
        status = lib.psgd_transport_gloo(byref(options), byref(self.c))
        if status < 0:
            raise Error(status, reason.value.decode()) from (failure[0] if failure else None)

    def close(self):
        lib.psgd_transport_destroy(byref(self.c))

    __del__ = close


def close_session(session, *_borrowed):
    lib.psgd_session_close(byref(session))


class Session:
    """A session over `shapes`: tensor i has the dimensions shapes[i] and the id i.

    With a transport buckets are submitted; without one (n_workers given) they are exchanged by the
    caller. A bucket is a list of (id, address of its values); these must outlive the step. With a
    controller worker 0's decides the ranks, and a step's end says what it goes by: epoch,
    learning_rate, epoch_end, as in psgd_step_info.
    """
    def __init__(self, shapes, compressor, transport=None, worker=0, n_workers=0, controller=None):
        self.c = c_void_p()
        tensors = (psgd_tensor * len(shapes))()
        for number, (tensor, shape) in enumerate(zip(tensors, shapes)):
            if len(shape) > PSGD_MAX_DIMS:
                raise ValueError(f'tensor {number} has {len(shape)} dimensions, '
                                 f'at most {PSGD_MAX_DIMS} are possible')
            tensor.id, tensor.dtype, tensor.n_dims = number, PSGD_F32, len(shape)
            tensor.dims[:len(shape)] = shape
        options = psgd_session_options(
            compressor=ctypes.pointer(compressor.c),
            controller=ctypes.pointer(controller.c) if controller else None,
            transport=ctypes.pointer(transport.c) if transport else None,
            worker=worker, n_workers=n_workers)
        check(lib.psgd_session_open(tensors, len(shapes), byref(options), byref(self.c)))
        # The library borrows the parts: they outlive the session in whatever order Python collects.
        self.close = weakref.finalize(self, close_session, self.c, compressor, transport,
                                      controller)

    def error(self):
        text = ctypes.create_string_buffer(512)
        lib.psgd_session_error(self.c, text, len(text))
        return text.value.decode()

    def check(self, status):
        return check(status, self.error() if status < 0 else '')

    def submit(self, grads):
        """Hands a bucket over, and returns at once."""
        self.check(lib.psgd_session_submit(self.c, byref(bucket_of(grads)), None, None))

    def finish_step(self, **info):
        """Waits for all buckets of the step; what the step was, as psgd_report."""
        report = psgd_report()
        self.check(lib.psgd_session_finish_step(self.c, byref(psgd_step_info(**info)),
                                                byref(report)))
        return report

    def set_ranks(self, ranks):
        """Matrix ranks from the next step on, one a tensor, 0 for dense; alike on all workers."""
        array = (c_uint32 * len(ranks))(*ranks)
        self.check(lib.psgd_session_set_ranks(self.c, array, len(ranks)))

    def memory(self):
        memory = psgd_memory()
        self.check(lib.psgd_session_memory(self.c, byref(memory)))
        return memory

    def exchange(self, grads):
        """Begins the exchange of a bucket, in a session without a transport."""
        made = c_void_p()
        self.check(lib.psgd_exchange_begin(self.c, byref(bucket_of(grads)), None, byref(made)))
        return Exchange(self, made)

    def exchange_finish(self, **info):
        """Ends the step: its last exchange, and the report."""
        made, report = c_void_p(), psgd_report()
        self.check(lib.psgd_exchange_begin_finish(self.c, byref(psgd_step_info(**info)),
                                                  byref(report), byref(made)))
        return Exchange(self, made), report


class Exchange:
    """One bucket's way through the collectives of the caller."""
    def __init__(self, session, made):
        self.session, self.c = session, made
        self.collective = psgd_collective()

    def next(self):
        """PSGD_WANT_COLLECTIVE: run self.collective, then call again. PSGD_PENDING: advance an
        earlier exchange first. PSGD_OK: done."""
        status = self.session.check(lib.psgd_exchange_next(self.c, byref(self.collective)))
        if status == PSGD_OK:
            self.end()
        return status

    def end(self):
        lib.psgd_exchange_end(byref(self.c))


def bucket_of(grads):
    array = (psgd_grad * len(grads))(*grads)
    return psgd_bucket(grads=array, n_grads=len(grads))


def values_at(collective):
    """The values of a collective as a ctypes array, without a copy."""
    kind = {PSGD_F32: c_float, PSGD_F64: c_double, PSGD_U8: c_uint8}[collective.dtype]
    return (kind * collective.count).from_address(collective.data)
