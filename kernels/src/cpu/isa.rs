//! Which instruction set runs, found once, and the macro that instantiates a kernel for each.

use std::fmt;
use std::sync::OnceLock;

/// An instruction set that kernels are built for, from plain to fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust. Also what non-x86 machines run today: there is no NEON version yet.
    Scalar,
    /// AVX2, FMA, F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// The same with VNNI.
    Avx512Vnni,
}

impl Isa {
    /// All of them, plain first.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Avx512Vnni];

    /// The best one of this machine.
    pub fn detect() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::ALL.into_iter().rev().find(|isa| isa.probe()).unwrap_or(Self::Scalar))
    }

    /// Whether this machine can run it.
    pub fn available(self) -> bool {
        self <= Self::detect()
    }

    #[cfg(target_arch = "x86_64")]
    fn probe(self) -> bool {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match self {
            Self::Scalar => true,
            Self::Avx2 => avx2,
            Self::Avx512 => avx512,
            Self::Avx512Vnni => avx512 && is_x86_feature_detected!("avx512vnni"),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn probe(self) -> bool {
        self == Self::Scalar
    }

    /// Its name in logs and figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `instantiate! { fn name(args…) -> R = kernel }` makes `name(isa, args…)`, which runs `kernel::<L>(args…)` compiled for `isa`.
///
/// A kernel may take further const arguments: `= kernel<8>` for all sets, or `= kernel<3 | 12>` for 256-bit and 512-bit registers.
macro_rules! instantiate {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $kernel:ident) => {
        $crate::cpu::isa::instantiate! {
            $(#[$doc])* $vis fn $name($($arg: $ty),*) $(-> $ret)? = [$kernel] [] []
        }
    };
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $kernel:ident<$($c:literal),+>) => {
        $crate::cpu::isa::instantiate! {
            $(#[$doc])* $vis fn $name($($arg: $ty),*) $(-> $ret)? = [$kernel] [$($c),+] [$($c),+]
        }
    };
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?
        = $kernel:ident<$($narrow:literal),+ ; $($wide:literal),+>) => {
        $crate::cpu::isa::instantiate! {
            $(#[$doc])* $vis fn $name($($arg: $ty),*) $(-> $ret)? = [$kernel] [$($narrow),+] [$($wide),+]
        }
    };
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?
        = [$kernel:ident] [$($narrow:literal),*] [$($wide:literal),*]) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name(isa: $crate::cpu::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            use $crate::cpu::lanes;
            unsafe fn scalar($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the caller's contract is this function's.
                unsafe { $kernel::<lanes::Scalar $(, $narrow)*>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the caller's contract is this function's.
                unsafe { $kernel::<lanes::Avx2 $(, $narrow)*>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the caller's contract is this function's.
                unsafe { $kernel::<lanes::Avx512 $(, $wide)*>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
            unsafe fn avx512_vnni($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the caller's contract is this function's.
                unsafe { $kernel::<lanes::Avx512Vnni $(, $wide)*>($($arg),*) }
            }
            // SAFETY: `Isa` values other than `Scalar` come from `Isa::detect` or are checked against it by `Cpu::with_isa`.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    $crate::cpu::isa::Isa::Avx2 => avx2($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::cpu::isa::Isa::Avx512 => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::cpu::isa::Isa::Avx512Vnni => avx512_vnni($($arg),*),
                    _ => scalar($($arg),*),
                }
            }
        }
    };
}
pub(crate) use instantiate;
